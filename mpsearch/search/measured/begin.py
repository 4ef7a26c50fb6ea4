"""How a search begins that tries assignments one after another."""

from dataclasses import dataclass

import numpy as np

from mpsearch.search.measured.archive import Archive
from mpsearch.search.measured.repair import Repairer, make_repairer
from mpsearch.search.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What such a search works with.

    Attributes:
        archive: Evaluates and keeps.
        repairer: Makes assignments feasible.
        rng: The only source of chance.
    """

    archive: Archive
    repairer: Repairer
    rng: np.random.Generator


def begin(task: Task, *, stream: int) -> Start:
    """Return an empty archive, a repairer and a random stream for a search.

    Args:
        task: The search.
        stream: Number of the method's random stream.

    Raises:
        ProblemError: An objective is unknown or stands twice.
        InfeasibleError: No assignment meets the constraints.
    """
    archive = Archive(task)
    repairer = make_repairer(
        task.problem, archive.reduced, measures=archive.measures, seed=task.seed
    )
    return Start(archive, repairer, np.random.default_rng([task.seed, stream]))
