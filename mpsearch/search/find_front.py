"""The entrance to all searchers."""

from collections.abc import Sequence

from mpsearch import registry
from mpsearch.errors import ArgumentError, check_argument
from mpsearch.problem.front import Front
from mpsearch.problem.problem import Evaluator, Problem
from mpsearch.problem.tables import Progress


def find_front(
    problem: Problem,
    *,
    method: str | None = None,
    objectives: Sequence[str] = ("latency_us", "loss"),
    evaluator: Evaluator | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
) -> Front:
    """Return a Pareto front of ``problem`` by the search method ``method``.

    Args:
        problem: Tables, edges and constraints.
        method: A name of ``mpsearch list searchers``; None: ``refine`` with an evaluator, ``exact``
            without.
        objectives: What to minimise; names of the problem's objectives.
        evaluator: Measures losses; with it the front holds measured points only.
        budget: Whole-plan measurements, or without evaluator evaluations of the tables.
        seed: Same seed, same front.
        progress: Called with (done, total, best so far).
        time_limit_s: Stop after so many seconds, with what was found.

    Raises:
        UnknownNameError: No such method.
        ProblemError: The method cannot solve this problem, or an objective is unknown.
        InfeasibleError: No assignment meets the constraints.
    """
    check_argument("problem", problem, Problem, "as build_problem(table, costs) makes it")
    if evaluator is not None and not hasattr(evaluator, "evaluate"):
        raise ArgumentError(
            f"`evaluator` must measure assignments, as a Simulator does; got a {type(evaluator).__name__}"
        )
    name = method or ("exact" if evaluator is None else "refine")
    search = registry.find("searchers", name)
    limit = {} if time_limit_s is None else {"time_limit_s": time_limit_s}
    front: Front = search(
        problem,
        objectives=tuple(objectives),
        evaluator=evaluator,
        budget=budget,
        seed=seed,
        progress=progress,
        **limit,
    )
    return front
