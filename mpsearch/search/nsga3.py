"""NSGA-III with an archive, seeded by exact plans: for three objectives and more."""

from mpsearch.pareto import Front
from mpsearch.problem import Evaluator, Problem
from mpsearch.search.evolve import evolve, first_population
from mpsearch.search.start import begin
from mpsearch.search.survival import survive_by_directions
from mpsearch.tables import Progress


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
        seeded: Start half of the population from plans of the predicted front.
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
    population = first_population(start, size, most=100, seeded=seeded)
    directions = survive_by_directions(len(objectives), len(population))
    evolve(start, population, directions)
    return start.archive.front(method="nsga3")
