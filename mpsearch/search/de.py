"""Differential evolution on ranked schemes, for several objectives."""

from contextlib import suppress

import numpy as np

from mpsearch.problem.front import Front
from mpsearch.search.measured.archive import Exhausted
from mpsearch.search.measured.begin import begin
from mpsearch.search.measured.evolution import first_rows, population_size
from mpsearch.search.measured.survival import survive_by_crowding
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Bools, Floats, Ints

_SCALE = 0.5
_CROSSOVER = 0.5


def search(
    task: Task,
    *,
    seeded: bool = True,
    size: int | None = None,
) -> Front:
    """Return the front of all that GDE3 (Kukkonen & Lampinen 2005) evaluated.

    A variable is a number in [0, 1): a place in its allowed schemes sorted by the first objective, so
    that differences of plans have a direction. rand/1/bin; a child replaces the parent that it dominates,
    stays beside one that it does not, and ranks and crowding cut the population back.

    Args:
        task: What to search; every assignment tried is repaired to meet the constraints. 200 measured or
            10 000 predicted evaluations if the budget is None.
        seeded: Begin with plans of the predicted front, a third of the budget (at most 100).
        size: Population; a twentieth of the budget, 8 to 60, if None.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    start = begin(task, stream=5)
    archive, repairer, rng = start.archive, start.repairer, start.rng
    population = max(3, size or population_size(archive, most=60))  # three plans make a mutant
    rows = first_rows(start, population, seeded=seeded)
    places = _Places(archive.reduced.values[:, :, 0], archive.reduced.allowed)
    with suppress(Exhausted):
        values = archive.evaluate(rows)
        while True:
            keys = places.encode(rows, rng)
            picks = np.stack([rng.permutation(len(rows))[:3] for _ in rows])
            mutant = keys[picks[:, 0]] + _SCALE * (keys[picks[:, 1]] - keys[picks[:, 2]])
            cross = rng.random(keys.shape) < _CROSSOVER
            cross[np.arange(len(rows)), rng.integers(keys.shape[1], size=len(rows))] = True
            children = repairer.repair(places.decode(np.where(cross, mutant, keys)), rng)
            new = archive.evaluate(children)
            replaced: Bools = np.asarray((new <= values).all(axis=1))
            rows = np.concatenate(
                [np.where(replaced[:, None], children, rows), children[~replaced]]
            )
            values = np.concatenate([np.where(replaced[:, None], new, values), new[~replaced]])
            excess = archive.excess(rows)
            order = np.argsort(excess, kind="stable")
            if not excess.any():
                order = survive_by_crowding(values, population, rng)
            rows, values = rows[order[:population]], values[order[:population]]
    return archive.front(method="de")


SEARCHER = Searcher(search)


class _Places:
    """Schemes as numbers in [0, 1): rank by cost among the allowed ones."""

    def __init__(self, cost: Floats, allowed: Bools) -> None:
        hidden = np.where(allowed, cost, np.inf)
        self._schemes = np.argsort(hidden, axis=1, kind="stable")
        self._rank = np.argsort(self._schemes, axis=1, kind="stable")
        self._count = allowed.sum(axis=1)

    def encode(self, rows: Ints, rng: np.random.Generator) -> Floats:
        rank = self._rank[np.arange(len(self._rank)), rows]
        keys: Floats = (rank + rng.random(rank.shape)) / self._count
        return keys

    def decode(self, keys: Floats) -> Ints:
        folded = np.abs(((keys + 1.0) % 2.0) - 1.0)  # reflected at 0 and 1
        rank = np.minimum((folded * self._count).astype(np.int64), self._count - 1)
        rows: Ints = self._schemes[np.arange(len(self._schemes)), rank]
        return rows
