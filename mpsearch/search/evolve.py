"""Evolution of assignments: what nsga2, nsga3 and de share."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mpsearch.problem import Evaluator, Problem
from mpsearch.search.archive import Archive, Exhausted
from mpsearch.search.repair import Repairer, draw_allowed, make_repairer
from mpsearch.search.seeds import predicted_plans
from mpsearch.tables import Bools, Floats, Ints, Progress

Survive = Callable[[Floats, int, np.random.Generator], Ints]
"""Objectives [P, O], how many survive -> their indices, best first."""


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """What an evolution starts from.

    Attributes:
        archive: Evaluates and keeps.
        repairer: Makes children feasible.
        rng: The only source of chance.
        size: Population.
        plans: [P, V] assignments of variables to start from; the rest is drawn.
    """

    archive: Archive
    repairer: Repairer
    rng: np.random.Generator
    size: int
    plans: Ints

    def draw(self) -> Ints:
        """Return the first population [size, V]: the plans, repaired, filled up at random."""
        drawn = self.repairer.draw(max(0, self.size - len(self.plans)), self.rng)
        return np.concatenate([self.repairer.repair(self.plans, self.rng), drawn])


def begin(
    problem: Problem,
    objectives: Sequence[str],
    *,
    evaluator: Evaluator | None,
    budget: int | None,
    seed: int,
    progress: Progress | None,
    time_limit_s: float | None,
    seeded: bool,
    size: int | None,
    most: int,
    stream: int,
) -> Beginning:
    """Return what an evolution starts from.

    Args:
        problem: The tables.
        objectives: What to minimise.
        evaluator: Measures losses, if given.
        budget: Evaluations; None: the archive's own.
        seed: Of all chance.
        progress: Called after evaluations.
        time_limit_s: Stop then.
        seeded: Start half of the population from plans of the predicted front.
        size: Population; None: a twentieth of the budget, from 8 to ``most``.
        most: See ``size``.
        stream: Number of the method's random stream.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    archive = Archive(
        problem,
        objectives,
        evaluator=evaluator,
        budget=budget,
        progress=progress,
        time_limit_s=time_limit_s,
    )
    repairer = make_repairer(problem, archive.reduced, measures=archive.measures, seed=seed)
    count = size or int(np.clip(archive.budget // 20, 8, most))
    plans = predicted_plans(archive, max(1, count // 2) if seeded else 0)
    return Beginning(archive, repairer, np.random.default_rng([seed, stream]), count, plans)


def evolve(start: Beginning, survive: Survive) -> None:
    """Evolve a population until the archive is exhausted; results are in the archive.

    Uniform and segment crossover, one random change a child on average, repair to feasibility. Those that
    miss a measured limit survive only after all others, by how far they miss it.

    Args:
        start: Population, archive and chance.
        survive: Chooses survivors.
    """
    archive, repairer, rng, size = start.archive, start.repairer, start.rng, start.size
    with suppress(Exhausted):
        rows = start.draw()
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
