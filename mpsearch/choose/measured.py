"""Measuring the points that plans are chosen from, and refining a front until a choice is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from mpsearch.artifacts import digest_json
from mpsearch.errors import InfeasibleError
from mpsearch.problem.constraints import rounded_outward
from mpsearch.problem.front import Front, Point
from mpsearch.problem.problem import Evaluator
from mpsearch.problem.tables import Progress
from mpsearch.problem.ties import Difference
from mpsearch.search.choose_point import upper
from mpsearch.search.measured.measure import announce
from mpsearch.stats.estimates import Estimate


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


class PairedEvaluator(Evaluator, Protocol):
    """Measures assignments on the same samples, so that their losses can be compared in pairs."""

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        """Return the mean loss of one assignment [G] minus the other's, with the error of the pairs."""
        ...


def paired(evaluator: PairedEvaluator) -> Difference:
    """Return the differences of points' losses on the evaluator's samples."""
    return lambda first, second: evaluator.difference(first.assignment, second.assignment)


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


def measure_least(
    front: Front, evaluator: Evaluator, *, candidates: int = 8, confidence: float | None = None
) -> Front:
    """Return ``front`` with the ``candidates`` of least predicted loss measured.

    With ``confidence`` those of the least upper bound.

    Raises:
        InfeasibleError: The front has no points.
    """
    if not front.points:
        raise InfeasibleError("the front has no points to choose from")
    order = np.argsort(
        [upper(point.value("loss"), confidence) for point in front.points], kind="stable"
    )
    points = list(front.points)
    wanted = [points[i].assignment for i in order[:candidates] if "loss" not in points[i].measured]
    announce(evaluator, np.array(wanted, np.int64))
    for index in order[:candidates]:
        points[index] = measure_point(points[index], evaluator)
    return replace(front, points=tuple(points))


def with_measured(front: Front, losses: Mapping[tuple[int, ...], Estimate]) -> Front:
    """Return ``front`` with the losses that are known already put on its points."""
    points = [
        replace(point, measured={**point.measured, "loss": losses[point.assignment]})
        if point.assignment in losses
        else point
        for point in front.points
    ]
    return replace(front, points=tuple(points))
