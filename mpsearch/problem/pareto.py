"""Dominance: which values no other ones dominate, their hypervolume, their knee."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from mpsearch.errors import ProblemError
from mpsearch.stats.estimates import Bools, Floats, Ints


def non_dominated(values: ArrayLike) -> Bools:
    """Return which rows of ``values`` [P, O] no other row dominates; of equal rows the first."""
    array = _matrix(values)
    keep = np.zeros(len(array), np.bool_)
    if not len(array):
        return keep
    order = np.lexsort(array.T[::-1])  # by the first objective, then the second, ...; stable
    ranked = array[order]
    if array.shape[1] == 1:
        keep[order[0]] = True
        return keep
    if array.shape[1] == 2:
        best = np.minimum.accumulate(ranked[:, 1])
        keep[order] = np.concatenate([[True], ranked[1:, 1] < best[:-1]])
        return keep
    left = np.arange(len(array))
    while left.size:
        first, left = left[0], left[1:]
        keep[order[first]] = True  # nothing before it in the order is left to dominate it
        left = left[(ranked[left] < ranked[first]).any(axis=1)]
    return keep


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume between ``values`` [P, O] and ``reference`` [O] that they dominate.

    Exact to 4 objectives by slicing; above that through pymoo. Rows beyond the reference count nothing.
    """
    array, corner = _matrix(values), np.asarray(reference, np.float64)
    if corner.shape != (array.shape[1],):
        raise ProblemError(
            f"the reference must have {array.shape[1]} values, got {list(corner.shape)}"
        )
    array = array[(array < corner).all(axis=1)]
    if not len(array):
        return 0.0
    array = array[non_dominated(array)]
    if array.shape[1] > 4:
        from pymoo.indicators.hv import HV

        return float(HV(ref_point=corner)(array))
    return _volume(array, corner)


def _volume(array: Floats, corner: Floats) -> float:
    if array.shape[1] == 1:
        return float(corner[0] - array.min())
    if array.shape[1] == 2:
        order = np.lexsort((array[:, 1], array[:, 0]))
        x, y = array[order].T
        floor = np.minimum.accumulate(np.concatenate([corner[1:], y]))
        return math.fsum((corner[0] - x) * (floor[:-1] - floor[1:]))
    order = np.argsort(array[:, -1], kind="stable")
    array = array[order]
    levels = np.append(array[:, -1], corner[-1])
    slices: list[float] = []
    kept = array[:0, :-1]
    for row, (low, high) in zip(array, pairwise(levels), strict=True):
        kept = np.concatenate([kept, row[None, :-1]])
        kept = kept[non_dominated(kept)]
        if high > low:
            slices.append((high - low) * _volume(kept, corner[:-1]))
    return math.fsum(slices)


def knee(values: ArrayLike) -> int:
    """Return the row of ``values`` [P, O] farthest below the plane through the extremes.

    With every objective scaled to [0, 1] over the rows, that is the least sum; of equals the first.
    """
    array = _matrix(values)
    if not len(array):
        raise ProblemError("the knee of an empty front was asked for")
    return int(_scaled(array).sum(axis=1).argmin())


def thin(values: ArrayLike, n: int) -> Ints:
    """Return ``n`` rows of ``values`` [P, O], ascending, so that every row has a kept one nearby.

    The best of each objective come first, then always the row that is farthest (largest difference of
    a scaled objective) from all kept ones: at most twice the least possible distance (Gonzalez 1985).
    """
    array = _scaled(_matrix(values))
    if n < 1:
        raise ProblemError(f"`n >= 1` must hold for thinning, got {n}")
    if len(array) <= n:
        return np.arange(len(array))
    kept: list[int] = []
    distance = np.full(len(array), np.inf)
    starts = list(dict.fromkeys(array.argmin(axis=0).tolist()))
    while len(kept) < n:
        new = starts[len(kept)] if len(kept) < len(starts) else int(distance.argmax())
        kept.append(new)
        distance = np.minimum(distance, np.abs(array - array[new]).max(axis=1))
    return np.array(sorted(set(kept)), np.int64)


def _matrix(values: ArrayLike) -> Floats:
    array = np.asarray(values, np.float64)
    if array.ndim != 2:
        raise ProblemError(f"values must be [points, objectives], got shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ProblemError("values must be finite; infeasible points are left out, never inf")
    return array


def _scaled(array: Floats) -> Floats:
    low = array.min(axis=0, initial=np.inf)
    span = array.max(axis=0, initial=-np.inf) - low
    return (array - low) / np.where(span > 0, span, 1.0)
