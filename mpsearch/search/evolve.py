"""Evolution of assignments: what nsga2 and nsga3 share."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from mpsearch.search.archive import Archive, Exhausted
from mpsearch.search.repair import Repairer, draw_allowed
from mpsearch.tables import Bools, Floats, Ints

Survive = Callable[[Floats, int, np.random.Generator], Ints]
"""Objectives [P, O], how many survive -> their indices, best first."""


def evolve(
    archive: Archive,
    repairer: Repairer,
    start: Ints,
    *,
    size: int,
    survive: Survive,
    rng: np.random.Generator,
) -> None:
    """Evolve a population until the archive is exhausted; results are in the archive.

    Uniform and segment crossover, one random change a child on average, repair to feasibility. Those that
    miss a measured limit survive only after all others, by how far they miss it.

    Args:
        archive: Evaluates and keeps.
        repairer: Makes children feasible.
        start: [P, V] assignments of variables to start from; filled up at random.
        size: Population.
        survive: Chooses survivors.
        rng: The only source of chance.
    """
    with suppress(Exhausted):
        drawn = repairer.draw(max(0, size - len(start)), rng)
        rows = np.concatenate([repairer.repair(start, rng), drawn])
        values = archive.evaluate(rows)
        while True:
            children = _children(rows, archive.reduced.allowed, size, rng)
            children = renew(archive, repairer, repairer.repair(children, rng), rng)
            values = np.concatenate([values, archive.evaluate(children)])
            rows = np.concatenate([rows, children])
            rows, first = np.unique(rows, axis=0, return_index=True)
            values = values[first]
            kept = _select(values, archive.excess(rows), size, survive, rng)
            rows, values = rows[kept], values[kept]


def _select(
    values: Floats, excess: Floats, size: int, survive: Survive, rng: np.random.Generator
) -> Ints:
    good = np.flatnonzero(excess <= 0)
    bad = np.flatnonzero(excess > 0)
    bad = bad[np.argsort(excess[bad], kind="stable")]
    if len(good) > 1:
        good = good[survive(values[good], min(size, len(good)), rng)]
    return np.concatenate([good, bad])[:size]


def _children(rows: Ints, allowed: Bools, count: int, rng: np.random.Generator) -> Ints:
    """Return ``count`` children; parents win binary tournaments, rows being sorted best first."""
    n, V = rows.shape
    picks = rng.integers(n, size=(count, 2, 2)).min(axis=2)
    first, second = rows[picks[:, 0]], rows[picks[:, 1]]
    uniform = rng.random((count, V)) < 0.5
    ends = np.sort(rng.integers(V + 1, size=(count, 2)), axis=1)
    place = np.arange(V)
    segment = (place >= ends[:, :1]) & (place < ends[:, 1:])
    mask = np.where(rng.random((count, 1)) < 0.5, uniform, segment)
    mask &= rng.random((count, 1)) < 0.9
    children = np.where(mask, second, first)
    change = rng.random((count, V)) < 1.0 / V
    return np.where(change, draw_allowed(allowed, count, rng), children)


def renew(archive: Archive, repairer: Repairer, rows: Ints, rng: np.random.Generator) -> Ints:
    """Return ``rows`` [P, V], those evaluated already changed at random, a few times, until new."""
    rows = rows.copy()
    for _ in range(4):
        old = np.array([archive.known(row) for row in rows], np.bool_)
        if not old.any():
            break
        fresh = rows[old]
        change = rng.random(fresh.shape) < 2.0 / fresh.shape[1]
        other = draw_allowed(archive.reduced.allowed, len(fresh), rng)
        rows[old] = repairer.repair(np.where(change, other, fresh), rng)
    return rows
