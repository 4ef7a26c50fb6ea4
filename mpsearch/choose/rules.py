"""Choosing plans by measured losses, with few measurements."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from mpsearch.choose.measured import cheapest_within, least_loss, measure_point, with_points
from mpsearch.deadline import Deadline
from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Front, Point
from mpsearch.problem.problem import Evaluator
from mpsearch.problem.tables import Costs, Progress, Table
from mpsearch.search.choose_point import choose_point, upper
from mpsearch.search.find_front import find_front

_LOSS_RANGE = 4.0  # of the rival's loss: where better points are looked for
CHOICES = frozenset({"mixed", "fast", "small", "safe"})
"""Names of the plans that rules choose."""

_BEST = 4  # best predictions that are measured for a rule


@dataclass(frozen=True, slots=True)
class Rules:
    """How plans are chosen.

    Attributes:
        faster: Share of the rival's latency that the plan ``fast`` must save.
        smaller: Share of the rival's size that the plan ``small`` must save.
        confidence: Losses are judged by upper bounds at this level; None: by means.
    """

    faster: float = 0.16
    smaller: float = 0.38
    confidence: float | None = None

    @property
    def fast(self) -> dict[str, float]:
        """Quantity to the share of the rival's value that ``fast`` may take."""
        return {"latency_us": 1 - self.faster, "weight_bytes": 1.0}

    @property
    def small(self) -> dict[str, float]:
        """Quantity to the share of the rival's value that ``small`` may take."""
        return {"weight_bytes": 1 - self.smaller, "latency_us": 1.0}

    def judged(self, point: Point, name: str) -> float:
        """Return the mean of a quantity of ``point``, or its upper bound at the confidence."""
        return upper(point.value(name), self.confidence)


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan that was chosen, and by which rule.

    Attributes:
        name: Name of its file in ``plans/``.
        label: What tables call it.
        rule: The rule in words.
        point: The point, measured.
    """

    name: str
    label: str
    rule: str
    point: Point


def choose_plans(
    front: Front,
    evaluator: Evaluator,
    *,
    limits: Mapping[str, float],
    rivals: Mapping[str, Point],
    rules: Rules = Rules(),
    progress: Progress | None = None,
) -> tuple[tuple[Choice, ...], Front]:
    """Choose plans by measured loss, the main one first.

    With a limit on ``loss``: the fastest plan that keeps it. With other limits: the plan of least loss.
    Without limits, against the least lossy of ``rivals``: the plan of least loss that is as much faster
    as ``rules`` say (and no larger), the one that is as much smaller (and no slower), and the fastest
    that loses no more; without rivals the knee.

    Args:
        front: Front over ``latency_us`` and ``loss``, under all limits but that on ``loss``.
        evaluator: Measures losses.
        limits: Quantity to its greatest value.
        rivals: Label to measured point of the uniform plans to beat.
        rules: How much faster and smaller, and at which confidence.
        progress: Called while measuring.

    Returns:
        The choices, and the front with all that was measured on the way.

    Raises:
        InfeasibleError: No measured point keeps the limit on ``loss``.
    """
    words = " and ".join(f"{name} <= {value:g}" for name, value in limits.items())
    if rules.confidence:
        words += f" at {rules.confidence:.3g} confidence"
    if "loss" in limits:
        point, front = cheapest_within(
            front,
            "latency_us",
            limits["loss"],
            evaluator,
            confidence=rules.confidence,
            progress=progress,
        )
        return (Choice("mixed", "mixed", f"fastest with {words}", point),), front
    if limits:
        point, front = least_loss(front, evaluator, confidence=rules.confidence)
        return (Choice("mixed", "mixed", f"least loss with {words}", point),), front
    choices = _against(*least_lossy(rivals), front, rules) if rivals else ()
    if choices:
        return choices, front
    point = measure_point(choose_point(front, knee=True, confidence=rules.confidence), evaluator)
    return (Choice("mixed", "mixed", "knee of the front", point),), front


def least_lossy(rivals: Mapping[str, Point]) -> tuple[str, Point]:
    """Return label and point of the least measured loss."""
    return min(rivals.items(), key=lambda item: item[1].measured["loss"].mean)


def _against(label: str, rival: Point, front: Front, rules: Rules) -> tuple[Choice, ...]:
    """The best measured points of ``front`` against ``rival``; a rule that none meets gives none."""
    pool = [point for point in front.points if "loss" in point.measured]
    sure = f", losses at {rules.confidence:.3g} confidence" if rules.confidence else ""
    wanted = (
        (
            "fast",
            f"least loss at {rules.faster:.0%} less latency than {label}, no larger{sure}",
            rules.fast,
            "loss",
        ),
        (
            "small",
            f"least loss at {rules.smaller:.0%} less size than {label}, no slower{sure}",
            rules.small,
            "loss",
        ),
        ("safe", f"fastest that loses no more than {label}{sure}", {"loss": 1.0}, "latency_us"),
    )
    choices = []
    for name, rule, shares, goal in wanted:
        inside = [point for point in pool if _within(point, rival, shares, rules)]
        if inside:
            point = min(inside, key=lambda point: rules.judged(point, goal))
            same = f" (= {label})" if point.assignment == rival.assignment else ""
            choices.append(Choice(name, f"mixed, {name}{same}", rule, point))
    return tuple(choices)


def _within(point: Point, rival: Point, shares: Mapping[str, float], rules: Rules) -> bool:
    """Whether each value of ``point`` is at most its share of the rival's."""
    return all(
        rules.judged(point, name) <= share * rules.judged(rival, name)
        for name, share in shares.items()
    )


@dataclass(frozen=True, slots=True)
class Effort:
    """What a refinement may take.

    Attributes:
        budget: Measurements of its searches.
        deadline: When they stop with what they have; None: never.
        seed: Their seed.
    """

    budget: int
    deadline: Deadline | None = None
    seed: int = 0


def refine_front(
    front: Front,
    table: Table,
    costs: Costs,
    rival: Point,
    evaluator: Evaluator,
    effort: Effort,
    *,
    rules: Rules = Rules(),
    progress: Progress | None = None,
) -> Front:
    """Return ``front`` with measured points added where plans are chosen against ``rival``.

    Half of the budget goes to a search for latency, half to one for size, at up to four times the rival's
    loss: the table is corrected by what is measured, so that these points are better than predicted ones.
    Beyond the budget the best predictions for each rule are measured, about 20 at most.
    """
    half, limit = effort.budget // 2, rival.measured["loss"].mean
    if half < 1 or limit <= 0:
        return front
    problem = build_problem(table, costs, constraints=(f"loss <= {_LOSS_RANGE * limit!r}",))
    found: list[Point] = []
    for before, goal in ((0, "latency_us"), (half, "weight_bytes")):

        def told(done: int, total: int, text: str, before: int = before) -> None:
            if progress:
                progress(min(before + done, 2 * half - 1), 2 * half, text)

        with suppress(InfeasibleError, ProblemError):
            # as measured no plan keeps the bound, or the edges are too entangled for this search
            found += find_front(
                problem,
                method="refine",
                objectives=(goal, "loss"),
                evaluator=evaluator,
                budget=half,
                seed=effort.seed,
                progress=told,
                time_limit_s=_half_of_what_is_left(effort.deadline, last=before > 0),
            ).points
    found += _best_predicted(front, rival, rules.fast, rules, evaluator)
    with suppress(ProblemError):  # edges too entangled for a proof
        small = find_front(
            build_problem(table, costs), method="exact", objectives=("weight_bytes", "loss")
        )
        found += _best_predicted(small, rival, rules.small, rules, evaluator)
    joined = with_points(front, found)
    with suppress(InfeasibleError):  # then the rival itself is the safest
        _, joined = cheapest_within(
            joined, "latency_us", limit, evaluator, confidence=rules.confidence
        )
    if progress:
        progress(2 * half, 2 * half, "")
    added = len(joined.points) - len(front.points)
    if not added:
        return joined
    return replace(joined, certificate=f"{front.certificate}; {added} measured points added")


def _half_of_what_is_left(deadline: Deadline | None, *, last: bool) -> float | None:
    """Seconds for the first of two searches, or all for the last one."""
    if deadline is None:
        return None
    return deadline.left_s * (1.0 if last else 0.5)


def _best_predicted(
    front: Front, rival: Point, shares: Mapping[str, float], rules: Rules, evaluator: Evaluator
) -> list[Point]:
    """The points of least predicted loss within ``shares`` of the rival's values, measured."""
    inside = [point for point in front.points if _within(point, rival, shares, rules)]
    inside.sort(key=lambda point: point.predicted["loss"].mean)
    return [measure_point(point, evaluator) for point in inside[:_BEST]]
