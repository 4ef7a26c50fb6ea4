"""Measuring points of a front, and how well their prediction ranked them."""

from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from mpsearch.deadline import Deadline, has_passed
from mpsearch.errors import InfeasibleError, NumericsError
from mpsearch.problem.front import Front, Point, Step
from mpsearch.problem.pareto import thin
from mpsearch.problem.problem import Evaluator
from mpsearch.problem.tables import Progress
from mpsearch.search.measured.points import describe, judge, make_front
from mpsearch.search.task import Task
from mpsearch.stats.estimates import Estimate, Ints

_MEASURED = 50  # points of a predicted front


def announce(evaluator: Evaluator, assignments: Ints) -> None:
    """Tell an evaluator that measures ahead which of ``assignments`` [P, G] it will be asked for."""
    told = getattr(evaluator, "announce", None)
    if told is not None and len(assignments) > 1:
        told(assignments)


def measure(
    evaluator: Evaluator,
    assignments: Ints,
    *,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> list[Estimate]:
    """Return the measured loss of each of ``assignments`` [P, G], one by one.

    After ``deadline`` no more are measured but the first: fewer are returned.

    Raises:
        NumericsError: A loss is not finite.
    """
    losses: list[Estimate] = []
    if deadline is None:
        announce(evaluator, assignments)
    for row in assignments:
        if losses and has_passed(deadline):
            break
        (loss,) = evaluator.evaluate(row[None])
        if not (np.isfinite(loss.mean) and np.isfinite(loss.stderr)):
            raise NumericsError(f"a measured loss must be finite, got {loss.mean} ± {loss.stderr}")
        losses.append(Estimate(float(loss.mean), float(loss.stderr)))
        if progress:
            least = min(known.mean for known in losses)
            progress(len(losses), len(assignments), f"least loss {least:.4g}")
    return losses


def measure_points(
    front: Front,
    evaluator: Evaluator,
    *,
    count: int,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> Front:
    """Return ``front`` with the loss of ``count`` more points measured, spread over its range.

    All points stay, the others predicted; measured ones may turn out to dominate each other. After
    ``deadline`` no more are measured.

    Raises:
        NumericsError: A loss is not finite.
    """
    open_points = [i for i, point in enumerate(front.points) if "loss" not in point.measured]
    if not open_points or count < 1:
        return front
    chosen = [open_points[k] for k in thin(front.objectives[open_points], count)]
    losses = measure(evaluator, front.assignments[chosen], progress=progress, deadline=deadline)
    points: list[Point] = list(front.points)
    for index, loss in zip(chosen, losses, strict=False):  # fewer after the deadline
        points[index] = replace(points[index], measured={**points[index].measured, "loss": loss})
    return replace(front, points=tuple(points))


def as_measured(task: Task, front: Front) -> Front:
    """Measure as many points of ``front`` as the budget says (50 if None); return the front of those.

    Without evaluator, or where the loss is no objective, it stays as predicted. After the deadline no
    more are measured.

    Raises:
        InfeasibleError: As measured, none meets the constraints.
        NumericsError: A loss is not finite.
    """
    problem, evaluator = task.problem, task.evaluator
    if evaluator is None or "loss" not in front.names:
        return front
    measured = measure_points(
        front,
        evaluator,
        count=task.budget or _MEASURED,
        progress=task.progress,
        deadline=task.deadline,
    )
    points = [point for point in measured.points if "loss" in point.measured]
    rows = np.array([point.assignment for point in points], np.int64)
    losses = [point.measured["loss"] for point in points]
    good = judge(problem, rows, losses)
    if not good.any():
        least = min(loss.mean for loss in losses)
        raise InfeasibleError(
            f"no measured assignment meets {describe(problem)}; the least measured loss was {least:.6g}"
        )
    history = [
        Step(float(k + 1), tuple(point.value(name).mean for name in front.names))
        for k, point in enumerate(points)
        if good[k]
    ]
    kept = [point for point, fine in zip(points, good, strict=True) if fine]
    return make_front(
        problem,
        kept,
        front.names,
        method=front.method,
        certificate="",
        history=history,
    )


def rank_correlation(front: Front) -> tuple[float, int]:
    """Return Spearman's correlation of predicted and measured loss, and of how many points.

    NaN with fewer than 3 measured points or where one side is constant.
    """
    both = [p for p in front.points if "loss" in p.measured and "loss" in p.predicted]
    predicted = [point.predicted["loss"].mean for point in both]
    measured = [point.measured["loss"].mean for point in both]
    if len(both) < 3 or len(set(predicted)) < 2 or len(set(measured)) < 2:
        return float("nan"), len(both)
    return float(spearmanr(predicted, measured).statistic), len(both)
