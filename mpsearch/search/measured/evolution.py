"""Evolution of assignments: what nsga2, nsga3 and de share."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from mpsearch.search.measured.archive import Archive, Exhausted
from mpsearch.search.measured.begin import Start
from mpsearch.search.measured.predicted_start import predicted_plans
from mpsearch.search.measured.repair import draw_allowed, draw_segments
from mpsearch.stats.estimates import Bools, Floats, Ints

_SEEDS = 100  # plans of the predicted front, at most

Survive = Callable[[Floats, int, np.random.Generator], Ints]
"""Objectives [P, O], how many survive -> their indices, best first."""


def population_size(archive: Archive, *, most: int) -> int:
    """Return a twentieth of the budget, from 8 to ``most``."""
    return int(np.clip(archive.budget // 20, 8, most))


def first_rows(start: Start, size: int, *, seeded: bool) -> Ints:
    """Return feasible assignments of variables [P, V] to start from: ``size`` drawn at random.

    Seeded, half as many are drawn, beside plans of the predicted front: a third of the budget, at most
    100 unless the population is larger. Where few plans are measured, those are the best to be had.
    """
    repairer, rng, budget = start.repairer, start.rng, start.archive.budget
    count = max(size // 2, min(budget // 3, _SEEDS)) if seeded else 0
    plans = predicted_plans(start.archive, count)
    drawn = repairer.draw(size - size // 2 if len(plans) else size, rng)
    return np.concatenate([repairer.repair(plans, rng), drawn])


def evolve(start: Start, size: int, survive: Survive, *, seeded: bool) -> None:
    """Evolve a population until the archive is exhausted; results are in the archive.

    Uniform and segment crossover, one random change a child on average, repair to feasibility. Those that
    miss a measured limit survive only after all others, by how far they miss it.

    Args:
        start: Archive, repairer and chance.
        size: Population.
        survive: Chooses survivors.
        seeded: Start from plans of the predicted front too.
    """
    archive, repairer, rng = start.archive, start.repairer, start.rng
    rows = first_rows(start, size, seeded=seeded)
    with suppress(Exhausted):
        values = archive.evaluate(rows)
        if len(rows) > size:
            kept = _select(values, archive.excess(rows), size, survive, rng)
            rows, values = rows[kept], values[kept]
        while True:
            children = _children(rows, archive.reduced.allowed, size, rng)
            children = renew(start, repairer.repair(children, rng))
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
    segment = draw_segments(count, V, rng)
    mask = np.where(rng.random((count, 1)) < 0.5, uniform, segment)
    mask &= rng.random((count, 1)) < 0.9
    children = np.where(mask, second, first)
    change = rng.random((count, V)) < 1.0 / V
    return np.where(change, draw_allowed(allowed, count, rng), children)


def renew(start: Start, rows: Ints) -> Ints:
    """Return ``rows`` [P, V], those evaluated already changed at random, a few times, until new."""
    archive, repairer, rng = start.archive, start.repairer, start.rng
    rows = rows.copy()
    for _ in range(4):
        old = archive.known(rows)
        if not old.any():
            break
        fresh = rows[old]
        change = rng.random(fresh.shape) < 2.0 / fresh.shape[1]
        other = draw_allowed(archive.reduced.allowed, len(fresh), rng)
        rows[old] = repairer.repair(np.where(change, other, fresh), rng)
    return rows
