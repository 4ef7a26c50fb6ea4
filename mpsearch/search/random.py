"""Random assignments: the floor that any other method must beat."""

from contextlib import suppress

from mpsearch.problem.front import Front
from mpsearch.search.measured.archive import Exhausted
from mpsearch.search.measured.begin import begin
from mpsearch.search.task import Searcher, Task

_BATCH = 64


def search(task: Task) -> Front:
    """Return the front of random assignments, repaired to meet the constraints.

    Args:
        task: What to search. 200 measured or 10 000 predicted evaluations if the budget is None.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    start = begin(task, stream=1)
    with suppress(Exhausted):
        while True:
            start.archive.evaluate(start.repairer.draw(_BATCH, start.rng))
    return start.archive.front(method="random")


SEARCHER = Searcher(search)
