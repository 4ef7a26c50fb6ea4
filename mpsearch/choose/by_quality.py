"""Choosing the fastest plan that keeps its quality on held-out data, with confidence."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpsearch.choose.measured import measure_point, with_points
from mpsearch.choose.rules import Choice, Uniforms
from mpsearch.errors import DataError, InfeasibleError
from mpsearch.losses.custom import find_quality
from mpsearch.problem.constraints import rounded_outward
from mpsearch.problem.front import Front, Point
from mpsearch.problem.pareto import non_dominated, thin
from mpsearch.problem.problem import Evaluator
from mpsearch.problem.tables import Progress
from mpsearch.stats.estimates import Floats
from mpsearch.stats.paired_drop import DropTest, judge_drop

Scorer = Callable[[tuple[int, ...] | None], dict[str, Floats]]
"""[G] assignment, None for the fp32 model, to its scores [n] by name."""
DEFAULT_CONFIDENCE = 0.95
TESTS = 40
"""Points along a front that may be tested."""

_LOWER_IS_BETTER = ("nll", "loss")


def higher_is_better(quality: str) -> bool:
    """Return whether more of ``quality``, a built-in score or ``module:function``, is better.

    Raises:
        DataError: The function cannot be imported.
    """
    return find_quality(quality).sign < 0 if ":" in quality else quality not in _LOWER_IS_BETTER


@dataclass(frozen=True, slots=True)
class Keep:
    """What quality a chosen plan must keep.

    Attributes:
        quality: Name of a score on held-out data, or ``module:function``.
        max_drop: Greatest mean drop against the fp32 model.
        confidence: Of the one-sided bound that must be within it.
    """

    quality: str
    max_drop: float
    confidence: float

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"{self.quality} down by at most {self.max_drop:g} at {self.confidence:.3g} confidence"
        )


@dataclass(frozen=True, slots=True)
class Drop:
    """A plan whose quality was tested.

    Attributes:
        point: The plan.
        test: What was found.
    """

    point: Point
    test: DropTest


def choose_by_quality(
    front: Front,
    evaluator: Evaluator,
    scorer: Scorer,
    keep: Keep,
    uniforms: Uniforms,
    *,
    progress: Progress | None = None,
) -> tuple[Choice, Front, tuple[Drop, ...]]:
    """Choose the fastest of up to 40 points along ``front`` that keep ``keep``.

    The points, evenly apart in latency, and the uniform plans that none of them beats are laid down before held-out data are looked
    at, and tested from the safest plan and then the slowest on until one is not kept: a fixed sequence, in which the chance that any plan passes wrongly is no larger than that
    of a single test (Maurer et al. 1995), however many there are.

    Args:
        front: Front over ``latency_us`` and ``loss``.
        evaluator: Measures the loss of the chosen plan.
        scorer: Scores plans on held-out data.
        keep: What must be kept.
        uniforms: The uniform plans, measured; that in the base format is tested first.
        progress: Called after every test.

    Returns:
        The choice, the front with the chosen plan measured, and the tests in order.

    Raises:
        DataError: Held-out data give no such score.
        InfeasibleError: Not even the safest plan is known to keep it; says how many samples would tell.
    """
    goal = front.names[0]
    reference = _score(scorer, None, keep.quality)
    points = [*front.points, *uniforms.rivals.values(), *uniforms.rules.values()]
    values = np.array([[point.value(name).mean for name in front.names] for point in points])
    order = np.flatnonzero(non_dominated(values))  # some points may be dominated as measured
    order = order[thin(values[order, :1], TESTS)]
    order = order[np.argsort(-values[order, 0], kind="stable")]
    tried = [uniforms.points[uniforms.base], *(points[index] for index in order.tolist())]
    plans = list({point.assignment: point for point in reversed(tried)}.values())[::-1]
    drops: list[Drop] = []
    for point in plans:
        scores = _score(scorer, point.assignment, keep.quality)
        test = judge_drop(
            reference,
            scores,
            max_drop=keep.max_drop,
            confidence=keep.confidence,
            higher_is_better=higher_is_better(keep.quality),
        )
        drops.append(Drop(point, test))
        if progress:
            progress(len(drops), len(plans), f"{goal} {point.value(goal).mean:.4g} {test.verdict}")
        if test.verdict != "kept":
            break
    if progress:
        progress(len(plans), len(plans), "")
    kept = [drop for drop in drops if drop.test.verdict == "kept"]
    if not kept:
        raise InfeasibleError(
            f"no plan is known to keep {keep}: {uniforms.base} is {describe(drops[0])}"
        )
    point = measure_point(kept[-1].point, evaluator)
    rule = f"fastest of {len(order)} along the front with {keep}"
    same = [name for name, u in uniforms.candidates.items() if u.assignment == point.assignment]
    label = f"mixed (= {same[0]})" if same else "mixed"
    return Choice("mixed", label, rule, point), with_points(front, [point]), tuple(drops)


def describe(drop: Drop) -> str:
    """Return in words what was found of a plan."""
    test = drop.test
    text = f"{test.verdict} (drop {test.drop:.4g} on {test.samples} held-out samples, "
    if test.verdict == "broken":
        return text + f"at least {rounded_outward(test.lower, up=False, digits=3)})"
    text += f"at most {rounded_outward(test.upper, digits=3)})"
    if test.verdict == "kept":
        return text
    if test.samples_needed is None:
        return text + "; no number of samples would decide, the drop is at the limit"
    return text + f"; about {test.samples_needed} samples would decide"


def _score(scorer: Scorer, assignment: tuple[int, ...] | None, quality: str) -> Floats:
    scores = scorer(assignment)
    if quality not in scores:
        labels = "" if "nll" in scores else "; accuracy and nll need labels in it"
        raise DataError(
            f"quality must be {', '.join(scores)} or module:function with this held-out data, "
            f"got {quality!r}{labels}"
        )
    return scores[quality]
