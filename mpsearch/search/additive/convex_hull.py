"""The supported points of a separable problem: the lower convex hull of its front, in one sweep.

For a price per unit of the first objective each variable chooses alone; as the price falls, variables
step along their own convex hulls in the order of their slopes (Everett 1963; Shoham & Gersho 1988).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from mpsearch.stats.estimates import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Hull:
    """Supported assignments from the least first objective on.

    Attributes:
        rows: [P, V] assignments.
        values: [P, 2] their sums.
        eps: Every assignment is matched by a row to within this share of each sum's range.
    """

    rows: Ints
    values: Floats
    eps: float


def sweep_hull(x: Floats, y: Floats, allowed: Bools, *, n: int) -> Hull:
    """Return at most about ``n`` supported points of the sums over x and y [V, S], evenly spread.

    Time: sorting at most V S slopes; any number of variables.
    """
    V = len(x)
    first, variable, target, dx, dy = _steps(x, y, allowed)
    slope = dy / dx
    order = np.lexsort((np.arange(len(slope)), slope))
    xs = x[np.arange(V), first].sum() + np.concatenate([[0.0], dx[order].cumsum()])
    ys = y[np.arange(V), first].sum() + np.concatenate([[0.0], dy[order].cumsum()])
    last = len(order)
    if len(xs) > n:  # evenly along the larger of both scaled steps
        spans = max(xs[-1] - xs[0], 1e-300), max(ys[0] - ys[-1], 1e-300)
        travelled = (xs - xs[0]) / spans[0] + (ys[0] - ys) / spans[1]
        kept = np.unique(
            np.searchsorted(travelled, np.linspace(0.0, travelled[-1], n)).clip(0, last)
        )
        kept = np.unique(np.concatenate([[0], kept, [last]]))
    else:
        kept = np.arange(last + 1)
    rows = _snapshots(first, variable[order], target[order], kept)
    values = np.stack([xs[kept], ys[kept]], axis=1)
    spans_kept = np.ptp(values, axis=0)
    shares = np.abs(np.diff(values, axis=0)) / np.where(spans_kept > 0, spans_kept, 1.0)
    return Hull(rows, values, float(shares.min(axis=1).max(initial=0.0)))


@njit(cache=True)
def _steps(x: Floats, y: Floats, allowed: Bools) -> tuple[Ints, Ints, Ints, Floats, Floats]:
    """Return the first scheme of each variable, and all steps along the variables' hulls."""
    V, S = x.shape
    first = np.empty(V, np.int64)
    variable = np.empty(V * S, np.int64)
    target = np.empty(V * S, np.int64)
    dx = np.empty(V * S, np.float64)
    dy = np.empty(V * S, np.float64)
    size = 0
    for v in range(V):
        at = -1
        for s in range(S):
            if allowed[v, s] and (
                at < 0 or x[v, s] < x[v, at] or (x[v, s] == x[v, at] and y[v, s] < y[v, at])
            ):
                at = s
        first[v] = at
        while True:
            to = -1
            steepest = 0.0
            for s in range(S):
                if allowed[v, s] and x[v, s] > x[v, at] and y[v, s] < y[v, at]:
                    slope = (y[v, s] - y[v, at]) / (x[v, s] - x[v, at])
                    if to < 0 or slope < steepest or (slope == steepest and x[v, s] > x[v, to]):
                        to = s
                        steepest = slope
            if to < 0:
                break
            variable[size] = v
            target[size] = to
            dx[size] = x[v, to] - x[v, at]
            dy[size] = y[v, to] - y[v, at]
            size += 1
            at = to
    return first, variable[:size].copy(), target[:size].copy(), dx[:size].copy(), dy[:size].copy()


@njit(cache=True)
def _snapshots(first: Ints, variable: Ints, target: Ints, kept: Ints) -> Ints:
    rows = np.empty((kept.size, first.size), np.int64)
    row = first.copy()
    at = 0
    for k in range(kept.size):
        while at < kept[k]:
            row[variable[at]] = target[at]
            at += 1
        rows[k] = row
    return rows
