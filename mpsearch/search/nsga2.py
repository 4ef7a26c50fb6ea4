"""NSGA-II, and NSGA-III for three objectives and more, with an archive and seeded by exact plans."""

from mpsearch.problem.front import Front
from mpsearch.search.measured.begin import begin
from mpsearch.search.measured.evolution import evolve, population_size
from mpsearch.search.measured.survival import survive_by_crowding, survive_by_directions
from mpsearch.search.task import Searcher, Task


def search(
    task: Task,
    *,
    seeded: bool = True,
    size: int | None = None,
) -> Front:
    """Return the front of all that NSGA-II (Deb et al. 2002) evaluated.

    Crowding alone would lose good points; the archive keeps them, so that the front is never worse than
    the plans it started from.

    Args:
        task: What to search; every assignment tried is repaired to meet the constraints. 200 measured or
            10 000 predicted evaluations if the budget is None.
        seeded: Begin with plans of the predicted front, a third of the budget (at most 100).
        size: Population; a twentieth of the budget, 8 to 100, if None.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    start = begin(task, stream=2)
    population = size or population_size(start.archive, most=100)
    evolve(start, population, survive_by_crowding, seeded=seeded)
    return start.archive.front(method="nsga2")


SEARCHER = Searcher(search)


def search_by_directions(
    task: Task,
    *,
    seeded: bool = True,
    size: int | None = None,
) -> Front:
    """Return the front of all that NSGA-III (Deb & Jain 2014) evaluated.

    Survivors spread along reference directions rather than by crowding, which serves many objectives
    better; the archive keeps what they forget.

    Args:
        task: What to search; every assignment tried is repaired to meet the constraints. 200 measured or
            10 000 predicted evaluations if the budget is None.
        seeded: Begin with plans of the predicted front, a third of the budget (at most 100).
        size: Population; a twentieth of the budget, 8 to 100, if None.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    start = begin(task, stream=3)
    population = size or population_size(start.archive, most=100)
    directions = survive_by_directions(len(task.objectives), population)
    evolve(start, population, directions, seeded=seeded)
    return start.archive.front(method="nsga3")


BY_DIRECTIONS = Searcher(search_by_directions)
