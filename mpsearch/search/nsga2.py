"""NSGA-II, and NSGA-III for three objectives and more, with an archive and seeded by exact plans."""

from mpsearch.problem.front import Front
from mpsearch.problem.problem import Evaluator, Problem
from mpsearch.problem.tables import Progress
from mpsearch.search.measured.begin import begin
from mpsearch.search.measured.evolution import evolve, population_size
from mpsearch.search.measured.survival import survive_by_crowding, survive_by_directions


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
        seeded: Begin with plans of the predicted front, a third of the budget (at most 100).
        size: Population; a twentieth of the budget, 8 to 100, if None.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    start = begin(
        problem,
        objectives,
        evaluator=evaluator,
        budget=budget,
        seed=seed,
        progress=progress,
        time_limit_s=time_limit_s,
        stream=2,
    )
    population = size or population_size(start.archive, most=100)
    evolve(start, population, survive_by_crowding, seeded=seeded)
    return start.archive.front(method="nsga2")


def search_by_directions(
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
    """Return the front of all that NSGA-III (Deb & Jain 2014) evaluated.

    Survivors spread along reference directions rather than by crowding, which serves many objectives
    better; the archive keeps what they forget.

    Args:
        problem: The tables; every assignment tried is repaired to meet its constraints.
        objectives: What to minimise.
        evaluator: Measures losses; None: the tables' sums are searched.
        budget: Evaluations; 200 measured or 10 000 predicted if None.
        seed: Of all chance.
        progress: Called after evaluations.
        time_limit_s: Stop then.
        seeded: Begin with plans of the predicted front, a third of the budget (at most 100).
        size: Population; a twentieth of the budget, 8 to 100, if None.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    start = begin(
        problem,
        objectives,
        evaluator=evaluator,
        budget=budget,
        seed=seed,
        progress=progress,
        time_limit_s=time_limit_s,
        stream=3,
    )
    population = size or population_size(start.archive, most=100)
    directions = survive_by_directions(len(objectives), population)
    evolve(start, population, directions, seeded=seeded)
    return start.archive.front(method="nsga3")
