"""Choosing plans by measured losses, with few measurements."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from mpsearch.artifacts import digest_json
from mpsearch.constraints import rounded_outward
from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.pareto import Front, Point
from mpsearch.problem import Evaluator, build_problem
from mpsearch.search.choose import choose_point, upper
from mpsearch.search.front import find_front
from mpsearch.tables import Costs, Estimate, Progress, Table

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


def refine_front(
    front: Front,
    table: Table,
    costs: Costs,
    rival: Point,
    evaluator: Evaluator,
    *,
    budget: int,
    rules: Rules = Rules(),
    deadline: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Front:
    """Return ``front`` with measured points added where plans are chosen against ``rival``.

    Half of the budget goes to a search for latency, half to one for size, at up to four times the rival's
    loss: the table is corrected by what is measured, so that these points are better than predicted ones.
    Beyond the budget the best predictions for each rule are measured, about 20 at most. After
    ``deadline`` (of ``time.monotonic``) both searches stop with what they have.
    """
    half, limit = budget // 2, rival.measured["loss"].mean
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
                seed=seed,
                progress=told,
                time_limit_s=_half_of_what_is_left(deadline, last=before > 0),
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


def _half_of_what_is_left(deadline: float | None, *, last: bool) -> float | None:
    """Seconds for the first of two searches, or all for the last one."""
    if deadline is None:
        return None
    return max(0.0, deadline - time.monotonic()) * (1.0 if last else 0.5)


def _best_predicted(
    front: Front, rival: Point, shares: Mapping[str, float], rules: Rules, evaluator: Evaluator
) -> list[Point]:
    """The points of least predicted loss within ``shares`` of the rival's values, measured."""
    inside = [point for point in front.points if _within(point, rival, shares, rules)]
    inside.sort(key=lambda point: point.predicted["loss"].mean)
    return [measure_point(point, evaluator) for point in inside[:_BEST]]


def with_points(front: Front, points: Sequence[Point]) -> Front:
    """Return ``front`` with measured ``points`` added, by the first objective; its own stay."""
    known = {point.assignment: point for point in front.points}
    for point in points:
        if point.assignment not in known:
            known[point.assignment] = point
        elif "loss" not in known[point.assignment].measured:
            own = known[point.assignment]
            known[point.assignment] = replace(own, measured=point.measured)
    goal = front.names[0]
    ordered = sorted(known.values(), key=lambda point: point.value(goal).mean)
    return replace(front, points=tuple(ordered))


def measure_point(point: Point, evaluator: Evaluator) -> Point:
    """Return ``point`` with its loss measured."""
    if "loss" in point.measured:
        return point
    (loss,) = evaluator.evaluate(np.array([point.assignment], np.int64))
    return replace(point, measured={**point.measured, "loss": loss})


def plan_file(point: Point) -> str:
    """Return the name under which a run keeps the plan of a measured point."""
    return f"point_{digest_json(list(point.assignment))[:12]}.json"


def cheapest_within(
    front: Front,
    goal: str,
    loss_limit: float,
    evaluator: Evaluator,
    *,
    confidence: float | None = None,
    progress: Progress | None = None,
) -> tuple[Point, Front]:
    """Return the point of least ``goal`` whose measured loss is at most ``loss_limit``.

    Along a front losses fall as ``goal`` grows, and nearly so as measured: the limit is found by
    halving, so about log2(points) are measured. Whatever noise does, the point returned was measured
    and keeps the limit; of all that were measured and do, it is the one of least ``goal``.

    Args:
        front: A predicted or measured front over ``goal`` and ``loss``.
        goal: An objective of the front.
        loss_limit: Greatest measured loss.
        evaluator: Measures losses.
        confidence: Judge a measured loss by its upper bound at this level; None: by its mean.
        progress: Called with (measured, about how many, best so far).

    Returns:
        The point, and the front with all losses that were measured on the way.

    Raises:
        InfeasibleError: No measured point keeps the limit; says the least loss that was measured.
    """
    points = sorted(front.points, key=lambda point: point.value(goal).mean)
    total = max(1, int(np.ceil(np.log2(len(points) + 1))))

    def judged(point: Point) -> float:
        return upper(point.measured["loss"], confidence)

    low, high = -1, len(points)  # low: too lossy, high: within the limit (or none is)
    for index, point in enumerate(points):
        if "loss" in point.measured:
            if judged(point) <= loss_limit:
                high = min(high, index)
                break
            low = index
    done = 0
    while high - low > 1:
        middle = (low + high) // 2
        points[middle] = measure_point(points[middle], evaluator)
        if judged(points[middle]) <= loss_limit:
            high = middle
        else:
            low = middle
        done += 1
        if progress:
            best = points[high].value(goal).mean if high < len(points) else float("nan")
            progress(done, max(done, total), f"{goal} {best:.4g} so far")
    measured = with_points(front, points)
    within = [p for p in points if "loss" in p.measured and judged(p) <= loss_limit]
    if not within:
        least = rounded_outward(min(judged(p) for p in points if "loss" in p.measured))
        sure = f" at {confidence:.3g} confidence" if confidence else ""
        raise InfeasibleError(
            f"no point has loss <= {loss_limit:g} as measured{sure}; feasible: loss <= {least} is the "
            "nearest that was measured"
        )
    return min(within, key=lambda point: point.value(goal).mean), measured


def least_loss(
    front: Front, evaluator: Evaluator, *, candidates: int = 8, confidence: float | None = None
) -> tuple[Point, Front]:
    """Return the point of least measured loss, its ``candidates`` best predictions measured.

    With ``confidence`` that of the least upper bound.

    Returns:
        The point, and the front with all losses that were measured.

    Raises:
        InfeasibleError: The front has no points.
    """
    if not front.points:
        raise InfeasibleError("the front has no points to choose from")
    order = np.argsort(
        [upper(point.value("loss"), confidence) for point in front.points], kind="stable"
    )
    points = list(front.points)
    for index in order[:candidates]:
        points[index] = measure_point(points[index], evaluator)
    known = [point for point in points if "loss" in point.measured]
    best = min(known, key=lambda point: upper(point.measured["loss"], confidence))
    return best, replace(front, points=tuple(points))


def with_measured(front: Front, losses: Mapping[tuple[int, ...], Estimate]) -> Front:
    """Return ``front`` with the losses that are known already put on its points."""
    points = [
        replace(point, measured={**point.measured, "loss": losses[point.assignment]})
        if point.assignment in losses
        else point
        for point in front.points
    ]
    return replace(front, points=tuple(points))
