"""How a search begins that tries assignments one after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.problem.problem import Evaluator, Problem
from mpsearch.problem.tables import Progress
from mpsearch.search.measured.archive import Archive
from mpsearch.search.measured.repair import Repairer, make_repairer


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


def begin(
    problem: Problem,
    objectives: Sequence[str],
    *,
    evaluator: Evaluator | None,
    budget: int | None,
    seed: int,
    progress: Progress | None,
    time_limit_s: float | None,
    stream: int,
) -> Start:
    """Return an empty archive, a repairer and a random stream for a search of ``problem``.

    Args:
        problem: The tables.
        objectives: What to minimise.
        evaluator: Measures losses, if given.
        budget: Evaluations; None: the archive's own.
        seed: Of all chance.
        progress: Called after evaluations.
        time_limit_s: Stop then.
        stream: Number of the method's random stream.

    Raises:
        ProblemError: An objective is unknown or stands twice.
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
    return Start(archive, repairer, np.random.default_rng([seed, stream]))
