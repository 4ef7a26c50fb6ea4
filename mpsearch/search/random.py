"""Random assignments: the floor that any other method must beat."""

from contextlib import suppress

from mpsearch.problem.front import Front
from mpsearch.problem.problem import Evaluator, Problem
from mpsearch.problem.tables import Progress
from mpsearch.search.measured.archive import Exhausted
from mpsearch.search.measured.begin import begin

_BATCH = 64


def search(
    problem: Problem,
    *,
    objectives: tuple[str, ...] = ("latency_us", "loss"),
    evaluator: Evaluator | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
) -> Front:
    """Return the front of random assignments, repaired to meet the constraints.

    Args:
        problem: The tables.
        objectives: What to minimise.
        evaluator: Measures losses; None: the tables' sums are used.
        budget: Evaluations; 200 measured or 10 000 predicted if None.
        seed: Of all chance.
        progress: Called after evaluations.
        time_limit_s: Stop then.

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
        stream=1,
    )
    with suppress(Exhausted):
        while True:
            start.archive.evaluate(start.repairer.draw(_BATCH, start.rng))
    return start.archive.front(method="random")
