"""Choosing plans by measured losses, with few measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpsearch.artifacts import digest_json
from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.pareto import Front, Point
from mpsearch.problem import Evaluator, Problem
from mpsearch.search.choose import choose_point
from mpsearch.search.front import find_front
from mpsearch.tables import Estimate, Progress


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
        progress: Called with (measured, about how many, best so far).

    Returns:
        The point, and the front with all losses that were measured on the way.

    Raises:
        InfeasibleError: No measured point keeps the limit; says the least loss that was measured.
    """
    points = sorted(front.points, key=lambda point: point.value(goal).mean)
    total = max(1, int(np.ceil(np.log2(len(points) + 1))))
    low, high = -1, len(points)  # low: too lossy, high: within the limit (or none is)
    for index, point in enumerate(points):
        if "loss" in point.measured:
            if point.measured["loss"].mean <= loss_limit:
                high = min(high, index)
                break
            low = index
    done = 0
    while high - low > 1:
        middle = (low + high) // 2
        points[middle] = measure_point(points[middle], evaluator)
        if points[middle].measured["loss"].mean <= loss_limit:
            high = middle
        else:
            low = middle
        done += 1
        if progress:
            best = points[high].value(goal).mean if high < len(points) else float("nan")
            progress(done, max(done, total), f"{goal} {best:.4g} so far")
    measured = replace(front, points=_in_order_of(front, points))
    within = [p for p in points if "loss" in p.measured and p.measured["loss"].mean <= loss_limit]
    if not within:
        least = min(p.measured["loss"].mean for p in points if "loss" in p.measured)
        raise InfeasibleError(
            f"no point has loss <= {loss_limit:g} as measured; feasible: loss <= {least:.6g} is the "
            "nearest that was measured"
        )
    return min(within, key=lambda point: point.value(goal).mean), measured


def least_loss(front: Front, evaluator: Evaluator, *, candidates: int = 8) -> tuple[Point, Front]:
    """Return the point of least measured loss, its ``candidates`` best predictions measured.

    Returns:
        The point, and the front with all losses that were measured.

    Raises:
        InfeasibleError: The front has no points.
    """
    if not front.points:
        raise InfeasibleError("the front has no points to choose from")
    order = np.argsort([point.value("loss").mean for point in front.points], kind="stable")
    points = list(front.points)
    for index in order[:candidates]:
        points[index] = measure_point(points[index], evaluator)
    known = [point for point in points if "loss" in point.measured]
    best = min(known, key=lambda point: point.measured["loss"].mean)
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


def _in_order_of(front: Front, points: Sequence[Point]) -> tuple[Point, ...]:
    """``points`` in the order in which ``front`` has the same assignments."""
    by_assignment = {point.assignment: point for point in points}
    return tuple(by_assignment[point.assignment] for point in front.points)


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
    problem: Problem,
    front: Front,
    evaluator: Evaluator,
    *,
    limits: Mapping[str, float],
    rivals: Mapping[str, Point],
    progress: Progress | None = None,
) -> tuple[tuple[Choice, ...], Front]:
    """Choose plans from ``front`` by measured loss, the main one first.

    With a limit on ``loss``: the fastest plan that keeps it. With other limits: the plan of least loss.
    Without limits: the fastest and the smallest plan that lose no more than the least lossy of
    ``rivals``; without rivals the knee.

    Args:
        problem: The tables, under all limits but that on ``loss``.
        front: Front of ``problem`` over ``latency_us`` and ``loss``.
        evaluator: Measures losses.
        limits: Quantity to its greatest value.
        rivals: Label to measured point of the uniform plans to beat.
        progress: Called while measuring.

    Returns:
        The choices, and the front with all losses that were measured on the way.

    Raises:
        InfeasibleError: No measured point keeps the limit on ``loss``.
    """
    words = " and ".join(f"{name} <= {value:g}" for name, value in limits.items())
    if "loss" in limits:
        point, front = cheapest_within(
            front, "latency_us", limits["loss"], evaluator, progress=progress
        )
        return (Choice("mixed", "mixed", f"fastest with {words}", point),), front
    if limits:
        point, front = least_loss(front, evaluator)
        return (Choice("mixed", "mixed", f"least loss with {words}", point),), front
    if not rivals:
        point = measure_point(choose_point(front, knee=True), evaluator)
        return (Choice("mixed", "mixed", "knee of the front", point),), front
    label, rival = min(rivals.items(), key=lambda item: item[1].measured["loss"].mean)
    limit = rival.measured["loss"].mean
    point, front = cheapest_within(front, "latency_us", limit, evaluator, progress=progress)
    choices = [Choice("fast", "mixed, fastest", f"fastest that loses no more than {label}", point)]
    try:
        small = find_front(problem, method="exact", objectives=("weight_bytes", "loss"))
    except ProblemError:
        return tuple(choices), front  # edges too entangled for a proof; one choice is enough
    known = {p.assignment: p.measured["loss"] for p in front.points if "loss" in p.measured}
    point, _ = cheapest_within(
        with_measured(small, known), "weight_bytes", limit, evaluator, progress=progress
    )
    rule = f"smallest that loses no more than {label}"
    choices.append(Choice("small", "mixed, smallest", rule, point))
    return tuple(choices), front
