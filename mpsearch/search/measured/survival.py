"""Who survives in an evolution: pymoo's rankings as plain functions."""

from collections.abc import Callable
from math import comb

import numpy as np
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.ref_dirs import get_reference_directions

from mpsearch.stats.estimates import Floats, Ints


def survive_by_crowding(values: Floats, count: int, rng: np.random.Generator) -> Ints:
    """Return ``count`` rows of ``values`` [P, O], best first: by rank, then the least crowded."""
    population = Population.new(F=values, index=np.arange(len(values)))
    space = PymooProblem(n_var=1, n_obj=values.shape[1])
    kept = RankAndCrowding().do(space, population, n_survive=count, random_state=rng)
    index: Ints = np.array(kept.get("index"), np.int64)
    order = np.lexsort((index, -np.array(kept.get("crowding"), np.float64), kept.get("rank")))
    return index[order]


def survive_by_directions(
    n_objectives: int, size: int
) -> Callable[[Floats, int, np.random.Generator], Ints]:
    """Return a survival along about ``size`` evenly spread reference directions.

    It remembers the ideal and nadir points of what it has seen, as NSGA-III does.
    """
    partitions = 1
    while _directions(n_objectives, partitions + 1) <= size:
        partitions += 1
    directions = get_reference_directions("das-dennis", n_objectives, n_partitions=partitions)
    survival = ReferenceDirectionSurvival(directions)

    def survive(values: Floats, count: int, rng: np.random.Generator) -> Ints:
        population = Population.new(F=values, index=np.arange(len(values)))
        space = PymooProblem(n_var=1, n_obj=values.shape[1])
        kept = survival.do(space, population, n_survive=count, random_state=rng)
        index: Ints = np.array(kept.get("index"), np.int64)
        return index[np.lexsort((index, kept.get("rank")))]

    return survive


def _directions(n_objectives: int, partitions: int) -> int:
    """Return how many directions so many partitions make (Das & Dennis 1998)."""
    return comb(n_objectives + partitions - 1, partitions)
