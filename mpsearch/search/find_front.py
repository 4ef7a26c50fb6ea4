"""The entrance to all searchers."""

from collections.abc import Mapping, Sequence

from mpsearch import registry
from mpsearch.deadline import deadline_in
from mpsearch.errors import ArgumentError, ProblemError, check_argument
from mpsearch.problem.front import Front
from mpsearch.problem.problem import Evaluator, Problem
from mpsearch.problem.tables import Progress
from mpsearch.search.task import Task
from mpsearch.settings import check_settings


def find_front(
    problem: Problem,
    *,
    method: str | None = None,
    objectives: Sequence[str] = ("latency_us", "loss"),
    evaluator: Evaluator | None = None,
    budget: int | None = None,
    settings: Mapping[str, object] | None = None,
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
        settings: The method's own settings by name, such as ``{"storage": "sqlite:///study.db"}``.
        seed: Same seed, same front.
        progress: Called with (done, total, best so far).
        time_limit_s: Stop after so many seconds, with what was found.

    Raises:
        UnknownNameError: No such method.
        SettingError: The method has no such setting, or it is of another kind.
        ProblemError: The method cannot solve this problem, or not with this evaluator, or an objective
            is unknown.
        InfeasibleError: No assignment meets the constraints.
    """
    check_argument("problem", problem, Problem, "as build_problem(table, costs) makes it")
    if evaluator is not None and not hasattr(evaluator, "evaluate"):
        raise ArgumentError(
            f"`evaluator` must measure assignments, as a Simulator does; got a {type(evaluator).__name__}"
        )
    name = method or ("exact" if evaluator is None else "refine")
    searcher = registry.find("searchers", name)
    given = check_settings(f"search method {name}", searcher.settings, settings or {})
    if searcher.needs_evaluator and evaluator is None:
        raise ProblemError(f"search method {name} measures losses: it needs an evaluator")
    gradients = callable(getattr(evaluator, "loss_and_gradient", None))
    if searcher.needs_gradients and evaluator is not None and not gradients:
        raise ProblemError(
            f"search method {name} needs gradients, but this evaluator has no loss_and_gradient"
        )
    task = Task(
        problem,
        tuple(objectives),
        evaluator,
        budget,
        seed,
        progress,
        deadline_in(time_limit_s),
    )
    return searcher.search(task, **given)
