"""Where a measured search starts: plans that the tables say are best."""

import numpy as np

from mpsearch import registry
from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.problem.pareto import thin
from mpsearch.search.measured.archive import Archive
from mpsearch.search.task import Task
from mpsearch.stats.estimates import Ints


def predicted_plans(archive: Archive, count: int) -> Ints:
    """Return up to ``count`` assignments of variables [P, V], spread over the predicted front.

    The front is ``exact``'s, or ``hull``'s where the problem is too wide for that.
    """
    if count < 1:
        return np.zeros((0, archive.reduced.n_variables), np.int64)
    task = Task(archive.problem, archive.names)
    for name in ("exact", "hull"):
        try:
            front = registry.find("searchers", name).search(task)
        except ProblemError:
            continue
        except InfeasibleError:
            if not archive.loss_limits:
                raise
            break  # a limit on the loss may hold as measured where the tables say it cannot
        rows: Ints = archive.reduced.contract(front.assignments[thin(front.objectives, count)])
        return rows
    return np.zeros((0, archive.reduced.n_variables), np.int64)
