"""Choosing plans by measured losses, with few measurements."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mpsearch.choose.measured import (
    PairedEvaluator,
    cheapest_within,
    measure_least,
    measure_point,
    paired,
    with_points,
)
from mpsearch.deadline import Deadline
from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Front, Point
from mpsearch.problem.problem import Evaluator
from mpsearch.problem.tables import Costs, Progress, Table
from mpsearch.problem.ties import Difference, cheapness, find_better, no_higher, prefer
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


@dataclass(frozen=True, slots=True)
class Uniforms:
    """The uniform plans of a run.

    Attributes:
        points: Label to measured point.
        base: Label of the one in the base format.
        rules: Label to measured point of what rules of thumb give: candidates as well, but nothing is measured
            against them.
    """

    points: Mapping[str, Point]
    base: str
    rules: Mapping[str, Point] = field(default_factory=dict)

    @property
    def candidates(self) -> dict[str, Point]:
        """All that a chosen plan must not be beaten by."""
        return {**self.points, **self.rules}

    @property
    def rivals(self) -> dict[str, Point]:
        """All but the base, which others are not measured against: it saves nothing."""
        return {label: point for label, point in self.points.items() if label != self.base}

    def best(self, difference: Difference) -> tuple[str, Point]:
        """Return label and point of the rival of least loss, the fastest of those that are equal."""
        chosen = prefer(list(self.rivals.values()), difference)
        return next(item for item in self.rivals.items() if item[1] is chosen)


def choose_plans(
    front: Front,
    evaluator: PairedEvaluator,
    *,
    limits: Mapping[str, float],
    uniforms: Uniforms,
    rules: Rules = Rules(),
    progress: Progress | None = None,
) -> tuple[tuple[Choice, ...], Front]:
    """Choose plans by measured loss, the main one first.

    With a limit on ``loss``: the fastest plan that keeps it. With other limits: the plan of least loss.
    Without limits, against the best of the uniform plans: the plan of least loss that is as much faster
    as ``rules`` say (and no larger), the one that is as much smaller (and no slower), and the fastest
    that loses no more; without any uniform plan but the base the knee.

    Uniform plans are candidates everywhere. Losses that differ by less than the error of their paired difference are
    equal, and go to the faster plan, then to the smaller one; where a uniform plan beats what a rule
    found, the uniform plan is the choice.

    Args:
        front: Front over ``latency_us`` and ``loss``, under all limits but that on ``loss``.
        evaluator: Measures losses.
        limits: Quantity to its greatest value.
        uniforms: The uniform plans, measured.
        rules: How much faster and smaller, and at which confidence.
        progress: Called while measuring.

    Returns:
        The choices, and the front with all that was measured on the way and all that was chosen.

    Raises:
        InfeasibleError: No measured point keeps the limit on ``loss``.
    """
    words = " and ".join(f"{name} <= {value:g}" for name, value in limits.items())
    if rules.confidence:
        words += f" at {rules.confidence:.3g} confidence"
    difference = paired(evaluator)
    inside = {
        label: point
        for label, point in uniforms.candidates.items()
        if all(rules.judged(point, name) <= limit for name, limit in limits.items())
    }
    found: tuple[Choice, ...]
    if "loss" in limits:
        try:
            point, front = cheapest_within(
                front,
                "latency_us",
                limits["loss"],
                evaluator,
                confidence=rules.confidence,
                progress=progress,
            )
        except InfeasibleError:
            if not inside:
                raise
            point = min(inside.values(), key=cheapness)
        point = min((point, *inside.values()), key=cheapness)
        found = (Choice("mixed", "mixed", f"fastest with {words}", point),)
    elif limits:
        front = measure_least(front, evaluator, confidence=rules.confidence)
        pool = [point for point in front.points if "loss" in point.measured]
        point = prefer(
            (*pool, *inside.values()), difference, judge=lambda p: rules.judged(p, "loss")
        )
        found = (Choice("mixed", "mixed", f"least loss with {words}", point),)
    else:
        found = _against(uniforms, front, rules, difference) if uniforms.rivals else ()
    if not found:
        point = choose_point(front, knee=True, confidence=rules.confidence)
        point = measure_point(point, evaluator)
        found = (Choice("mixed", "mixed", "knee of the front", point),)
    choices = tuple(_unbeaten(choice, inside, difference) for choice in found)
    if not limits and uniforms.rivals:
        label, rival = uniforms.best(difference)
        choices = tuple(_with_gains(choice, label, rival) for choice in choices)
        choices = tuple(_named_alike(choice, choices) for choice in choices)
    return choices, with_points(front, [choice.point for choice in choices])


def _unbeaten(choice: Choice, uniforms: Mapping[str, Point], difference: Difference) -> Choice:
    """``choice``, or the uniform plan that beats it: where nothing does better, that is the answer."""
    point = choice.point
    while (better := find_better(point, uniforms.values(), difference)) is not None:
        point = better
    label = next((name for name, u in uniforms.items() if u.assignment == point.assignment), "")
    if not label:
        return choice
    said = choice.label if label in choice.label else f"{choice.label} (= {label})"
    return replace(
        choice, label=said, rule=f"{choice.rule}: nothing beats {label}", point=uniforms[label]
    )


def _named_alike(choice: Choice, choices: Sequence[Choice]) -> Choice:
    """``choice``, called alike with every other that is the same plan, so that tables list it once."""
    names = [other.name for other in choices if other.point.assignment == choice.point.assignment]
    same_as = choice.label.partition(" (= ")
    if len(names) == 1:
        return choice
    return replace(choice, label="".join((f"mixed, {' and '.join(names)}", *same_as[1:])))


def _against(
    uniforms: Uniforms, front: Front, rules: Rules, difference: Difference
) -> tuple[Choice, ...]:
    """The best measured points against the best rival; a rule that none meets gives none."""
    label, rival = uniforms.best(difference)
    pool = [point for point in front.points if "loss" in point.measured]
    seen = {point.assignment for point in pool}
    pool += [point for point in uniforms.candidates.values() if point.assignment not in seen]
    sure = f", losses at {rules.confidence:.3g} confidence" if rules.confidence else ""

    def loses_no_more(point: Point) -> bool:
        if rules.confidence:
            return _within(point, rival, {"loss": 1.0}, rules)
        return point.assignment == rival.assignment or no_higher(point, rival, difference)

    fast = [point for point in pool if _within(point, rival, rules.fast, rules)]
    small = [point for point in pool if _within(point, rival, rules.small, rules)]
    safe = [point for point in pool if loses_no_more(point)]
    choices = []
    if fast:
        point = prefer(fast, difference, judge=lambda p: rules.judged(p, "loss"))
        rule = f"least loss of those clearly faster than {label} and no larger{sure}"
        choices.append(Choice("fast", "mixed, fast", rule, point))
    if small:
        point = prefer(small, difference, judge=lambda p: rules.judged(p, "loss"))
        rule = f"least loss of those clearly smaller than {label} and no slower{sure}"
        choices.append(Choice("small", "mixed, small", rule, point))
    if safe:
        rule = f"fastest that loses no more than {label}{sure}"
        choices.append(Choice("safe", "mixed, safe", rule, min(safe, key=cheapness)))
    return tuple(choices)


def _with_gains(choice: Choice, label: str, rival: Point) -> Choice:
    """``choice``, its rule followed by what it gains on ``rival``."""
    if choice.point.assignment == rival.assignment:
        return choice
    parts = []
    for name, more, less in (
        ("latency_us", "faster", "slower"),
        ("weight_bytes", "smaller", "larger"),
    ):
        if all(name in {**p.predicted, **p.measured} for p in (choice.point, rival)):
            share = 1 - choice.point.value(name).mean / rival.value(name).mean
            parts.append(f"{abs(share):.0%} {more if share >= 0 else less}")
    said = f" ({' and '.join(parts)} than {label})" if parts else ""
    return replace(choice, rule=choice.rule + said)


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
