"""NSGA-II with an archive, seeded by exact plans."""

import numpy as np
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from mpsearch.pareto import Front
from mpsearch.problem import Evaluator, Problem
from mpsearch.search.archive import Archive
from mpsearch.search.evolve import evolve
from mpsearch.search.repair import make_repairer
from mpsearch.search.seeds import predicted_plans
from mpsearch.tables import Floats, Ints, Progress


def search(
    problem: Problem,
    *,
    objectives: tuple[str, ...] = ("latency_us", "loss"),
    evaluator: Evaluator | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
    seeded: bool = True,
    size: int | None = None,
) -> Front:
    """Return the front of all that NSGA-II (Deb et al. 2002) evaluated.

    Crowding alone would lose good points; the archive keeps them, so that the front is never worse than
    the plans it started from.

    Args:
        problem: The tables; every assignment tried is repaired to meet its constraints.
        objectives: What to minimise.
        evaluator: Measures losses; None: the tables' sums are searched.
        budget: Evaluations; 200 measured or 10 000 predicted if None.
        seed: Of all chance.
        progress: Called after evaluations.
        time_limit_s: Stop then.
        seeded: Start half of the population from plans of the predicted front.
        size: Population; a twentieth of the budget, 8 to 100, if None.

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
    count = size or int(np.clip(archive.budget // 20, 8, 100))
    start = predicted_plans(archive, max(1, count // 2) if seeded else 0)
    evolve(
        archive,
        repairer,
        start,
        size=count,
        survive=_survive,
        rng=np.random.default_rng([seed, 2]),
    )
    return archive.front(method="nsga2")


def _survive(values: Floats, count: int, rng: np.random.Generator) -> Ints:
    population = Population.new(F=values, index=np.arange(len(values)))
    space = PymooProblem(n_var=1, n_obj=values.shape[1])
    kept = RankAndCrowding().do(space, population, n_survive=count, random_state=rng)
    index: Ints = np.array(kept.get("index"), np.int64)
    order = np.lexsort((index, -np.array(kept.get("crowding"), np.float64), kept.get("rank")))
    return index[order]
