"""Choosing one point of a front."""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from mpsearch.errors import InfeasibleError, ProblemError, check_argument
from mpsearch.problem.constraints import rounded_outward
from mpsearch.problem.front import Front, Point
from mpsearch.problem.pareto import knee as knee_of
from mpsearch.problem.ties import Difference, find_better, prefer, unpaired
from mpsearch.stats.estimates import Estimate, Floats


def upper(value: Estimate, confidence: float | None) -> float:
    """Return the one-sided upper bound of a normal estimate; with None its mean."""
    z = 0.0 if confidence is None else NormalDist().inv_cdf(confidence)
    return value.mean + z * value.stderr


def choose_point(
    front: Front,
    *,
    limits: Mapping[str, float] | None = None,
    knee: bool = False,
    confidence: float | None = None,
    difference: Difference = unpaired,
) -> Point:
    """Return the best point of ``front`` within ``limits``.

    Among points within the limits: the knee if asked for or if there are no limits; else the least
    ``loss``, or where that is limited itself, the least of the first objective that is not. If any
    points were measured, only those are judged, by their measured loss: losses that differ by less than the
    error of their difference are equal and go to the faster point, then to the smaller one, and
    the knee is that of the points that no other beats so.

    Args:
        front: The front.
        limits: Quantity (an objective or ``effective_bits``) to its greatest value.
        knee: Take the knee of what is within the limits.
        confidence: Judge by upper confidence bounds at this level, such as 0.95, in place of means.
        difference: Of two points' losses; paired on the same samples it tells more apart.

    Raises:
        InfeasibleError: No point is within the limits; says the nearest feasible value of each.
        ProblemError: A limit is on something unknown, or the confidence is not within (0.5, 1).
    """
    check_argument("front", front, Front, "as find_front returns it")
    if confidence is not None and not 0.5 <= confidence < 1:
        raise ProblemError(f"`0.5 <= confidence < 1` must hold, got {confidence}")
    if not front.points:
        raise InfeasibleError("the front has no points to choose from")
    measured = [point for point in front.points if point.measured]
    points = measured or list(front.points)
    wanted = dict(limits or {})
    known = [name for name in points[0].predicted if all(name in p.predicted for p in points)]
    for name in wanted:
        if name not in known:
            raise ProblemError(f"a limit must be on one of {', '.join(known)}; got {name!r}")

    def column(name: str) -> Floats:
        return np.array([upper(point.value(name), confidence) for point in points])

    inside = np.ones(len(points), np.bool_)
    for name, limit in wanted.items():
        inside &= column(name) <= limit
    if not inside.any():
        raise InfeasibleError(_explain(wanted, {name: column(name) for name in wanted}))
    index = np.flatnonzero(inside)
    free = [name for name in front.names if name not in wanted]
    if knee or not wanted or not free:
        if measured and "loss" in front.names:
            kept = [points[i] for i in index]
            index = index[[find_better(point, kept, difference) is None for point in kept]]
        values = np.stack([column(name) for name in front.names], axis=1)
        return points[index[knee_of(values[index])]]
    goal = "loss" if "loss" in free else free[0]
    if measured and goal == "loss":
        return prefer(
            [points[i] for i in index],
            difference,
            judge=lambda p: upper(p.value("loss"), confidence),
        )
    rest = [name for name in front.names if name != goal]
    keys = [column(name)[index] for name in [*reversed(rest), goal]]
    return points[index[np.lexsort(keys)[0]]]


def _explain(limits: Mapping[str, float], columns: Mapping[str, Floats]) -> str:
    """Say for each limit the nearest value at which the others can be kept."""
    parts: list[str] = []
    for name in limits:
        others = np.ones(len(columns[name]), np.bool_)
        for other, limit in limits.items():
            others &= (columns[other] <= limit) | (other == name)
        if others.any():
            nearest = columns[name][others].min()
            kept = ", the other limits kept" if len(limits) > 1 else ""
            parts.append(f"{name} <= {rounded_outward(nearest)} is the nearest that is{kept}")
    asked = " and ".join(f"{name} <= {limit:g}" for name, limit in limits.items())
    if not parts:
        parts = [f"{name} alone reaches {rounded_outward(columns[name].min())}" for name in limits]
    return f"no point has {asked}; feasible: " + "; ".join(parts)
