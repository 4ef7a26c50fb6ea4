"""What every searcher promises, as checks that a third party's own searcher can be put through.

    import pytest
    from mpsearch.testing.searchers import CHECKS
    from my_package import SEARCHER  # Searcher(search), as the entry point mpsearch.searchers names it

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_my_searcher(check):
        check(SEARCHER)

A searcher is ``search(task: Task, *, own settings with defaults) -> Front`` and what it declares of itself
(:class:`mpsearch.search.task.Searcher`). Each check raises AssertionError, which says what is promised and was not kept.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import numpy as np

from mpsearch.deadline import deadline_in
from mpsearch.errors import InfeasibleError, ProblemError, SettingError
from mpsearch.problem.front import Front
from mpsearch.problem.pareto import non_dominated
from mpsearch.problem.problem import Problem
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Bools, Estimate, Floats, Ints

Check = Callable[[Searcher], None]


class Interacting:
    """An evaluator whose loss is no sum: the table's sum and an interaction of neighbours, saturating.

    Attributes:
        measured: What was measured, in order; nothing is measured that is ``known``.
    """

    def __init__(
        self, table: Floats, known: dict[bytes, Estimate] | None = None, *, seconds: float = 0.0
    ) -> None:
        """Measure the losses of a ``table`` [G, S]; each takes so many seconds."""
        self.measured: list[bytes] = []
        self._table = table
        self._known = {} if known is None else known
        self._seconds = seconds

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the loss of each of ``assignments`` [P, G]."""
        return [self._loss(row, fraction) for row in assignments]

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        """Return the loss of scheme ``probabilities`` [G, S], and its gradient [G, S]."""
        total = float((self._table * probabilities).sum())
        return Estimate(total / (1 + total), 0.01), self._table / (1 + total) ** 2

    def _loss(self, row: Ints, fraction: float) -> Estimate:
        key = row.tobytes()
        if key not in self._known or fraction < 1:
            time.sleep(self._seconds)
            parts = self._table[np.arange(len(row)), row]
            total = parts.sum() + 0.3 * np.sqrt(np.abs(parts[:-1] * parts[1:])).sum()
            found = Estimate(float(total / (1 + total)), 0.01)
            if fraction < 1:
                return found
            self.measured.append(key)
            self._known[key] = found
        return self._known[key]


def example_problem(**more: Any) -> Problem:
    """Return eight groups and three schemes: forbidden entries, switches along a chain, a tie, a forbidden pair.

    Args:
        more: Arguments of :class:`mpsearch.problem.problem.Problem` in place of these.
    """
    rng = np.random.default_rng(11)
    G, S = 8, 3
    cost = rng.lognormal(0, 1, (G, 1)) * np.array([1.0, 0.5, 0.3]) * rng.uniform(0.9, 1.1, (G, S))
    loss = rng.lognormal(-2, 1, (G, 1)) * np.array([0.01, 0.2, 1.0]) * rng.uniform(0.9, 1.1, (G, S))
    allowed = np.ones((G, S), np.bool_)
    allowed[2, 0] = allowed[5, 2] = False
    settings: dict[str, Any] = {
        "allowed": allowed,
        "edges": [(i, i + 1) for i in range(G - 1)],
        "pair_terms": {"latency_us": np.tile(0.05 * (1 - np.eye(S)), (G - 1, 1, 1))},
        "schemes": ("fp16", "fp8", "nvfp4"),
        "constraints": ("tie(group0, group3)", "forbid(group6=fp16, group7=nvfp4)"),
    }
    return Problem({"latency_us": cost, "loss": loss}, **{**settings, **more})


def _must(kept: bool | np.bool_, promise: str) -> None:
    if not kept:
        raise AssertionError(f"a searcher must keep: {promise}")


def _evaluator(problem: Problem, **more: Any) -> Interacting:
    return Interacting(problem.objectives["loss"], **more)


def _check_front(problem: Problem, front: Front) -> None:
    _must(bool(front.points), "a feasible problem has a front with points")
    measured = None
    if "loss" in front.points[0].measured:
        losses = np.array([point.measured["loss"] for point in front.points])
        measured = {"loss": (losses[:, 0], losses[:, 1])}
    _must(problem.feasible(front.assignments, measured=measured or {}).all(), "points are feasible")
    _must(non_dominated(front.objectives).all(), "no point dominates another")
    _must(
        bool((np.diff(front.objectives[:, 0]) >= 0).all()), "points ascend by the first objective"
    )
    _must(bool(front.method), "a front names its method")
    _must(
        (front.schemes, front.groups) == (problem.schemes, problem.groups),
        "a front has the problem's schemes and groups",
    )


def run(searcher: Searcher, problem: Problem, **more: Any) -> Front:
    """Return the front of ``problem``; a searcher that needs an evaluator gets one.

    Args:
        searcher: The searcher.
        problem: The problem.
        more: Other fields of :class:`mpsearch.search.task.Task`.
    """
    if searcher.needs_evaluator and more.get("evaluator") is None:
        more = {**more, "evaluator": _evaluator(problem)}
    return searcher.search(Task(problem, **more))


def check_declaration(searcher: Searcher) -> None:
    """Its own settings are keyword-only and have defaults of their own kind."""
    try:
        settings = searcher.settings
    except SettingError as error:
        _must(False, str(error))
    for setting in settings.values():
        fine = setting.default is None or setting.takes(setting.default)
        _must(fine, f"the default of {setting.name} is {setting.wanted}")


def check_predicted_front(searcher: Searcher) -> None:
    """Its front is feasible, non-dominated, in order, and predicted as the problem predicts."""
    problem = example_problem()
    front = run(searcher, problem, budget=150)
    _check_front(problem, front)
    _must(front.names == ("latency_us", "loss"), "latency_us and loss are the default objectives")
    if searcher.needs_evaluator:
        return
    for name, values in problem.evaluate(front.assignments).items():
        told = [point.predicted[name].mean for point in front.points]
        _must(told == values.tolist(), f"predicted {name} is the problem's own total")


def check_hard_problems(searcher: Searcher) -> None:
    """Tiny and huge scales, equal sums, negative losses, dense edges, pair terms of losses, one scheme only."""
    rng = np.random.default_rng(5)
    G, S = 6, 3
    every = [(i, j) for i in range(G) for j in range(i + 1, G)]
    pairs = rng.normal(0, 0.1, (len(every), S, S))
    cost, loss = rng.uniform(0.1, 1, (G, S)), rng.normal(0.3, 0.5, (G, S))
    only = np.ones((G, S), np.bool_)
    only[:3, 1:] = False
    problems = (
        Problem({"latency_us": 1e9 * cost, "loss": 1e-9 * loss}),
        Problem({"latency_us": 1e-9 * cost, "loss": 1e9 * loss}),
        Problem({"latency_us": np.ones((G, S)), "loss": np.zeros((G, S))}),
        Problem({"latency_us": rng.integers(0, 3, (G, S)), "loss": rng.integers(0, 3, (G, S))}),
        Problem({"latency_us": cost, "loss": loss}, edges=every, pair_terms={"loss": pairs}),
        Problem({"latency_us": cost, "loss": loss}, allowed=only),
    )
    for problem in problems:
        _check_front(problem, run(searcher, problem, budget=60))


def check_measured_front(searcher: Searcher) -> None:
    """With an evaluator every point is measured, and the history says when it came."""
    problem = example_problem()
    front = run(searcher, problem, evaluator=_evaluator(problem), budget=30)
    _check_front(problem, front)
    again = _evaluator(problem)
    for point in front.points:
        (loss,) = again.evaluate(np.array([point.assignment]))
        _must(point.measured.get("loss") == loss, "every point has its measured loss")
    _must(bool(front.history), "a measured front has a history")
    _must(front.history[-1].spent <= 30, "the history is within the budget")
    curve = front.hypervolume_history(front.objectives.max(axis=0) + 1.0)
    _must(
        bool(np.isclose(curve[-1][1], front.hypervolume(front.objectives.max(axis=0) + 1.0))),
        "the history ends at the front's hypervolume",
    )


def check_budget(searcher: Searcher) -> None:
    """No assignment is measured twice, and no more than the budget."""
    problem = example_problem()
    evaluator = _evaluator(problem)
    run(searcher, problem, evaluator=evaluator, budget=17)
    _must(len(evaluator.measured) <= 17, "measurements are within the budget")


def check_deadline(searcher: Searcher) -> None:
    """A deadline ends the search with what it has."""
    problem = example_problem()
    evaluator = _evaluator(problem, seconds=0.01)
    front = run(searcher, problem, evaluator=evaluator, budget=200, deadline=deadline_in(0.1))
    _check_front(problem, front)
    _must(len(evaluator.measured) <= 50, "a deadline ends the measuring")


def check_repeatability(searcher: Searcher) -> None:
    """The same seed gives the same front, by the same way."""
    problem = example_problem()
    first, second = (
        run(searcher, problem, evaluator=_evaluator(problem), budget=25, seed=3) for _ in range(2)
    )
    _must(first == second, "the same seed gives the same front and history")


def check_resuming(searcher: Searcher) -> None:
    """Run again with an evaluator that remembers, a stopped search goes on, to the same front."""
    problem = example_problem()
    whole = run(searcher, problem, evaluator=_evaluator(problem), budget=25, seed=1)
    known: dict[bytes, Estimate] = {}

    def stop(done: int, total: int, text: str) -> None:
        if len(known) >= 7:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        run(
            searcher,
            problem,
            evaluator=_evaluator(problem, known=known),
            budget=25,
            seed=1,
            progress=stop,
        )
    before = set(known)
    second = _evaluator(problem, known=known)
    resumed = run(searcher, problem, evaluator=second, budget=25, seed=1)
    _must(resumed == whole, "a resumed search ends where an uninterrupted one does")
    _must(not before & set(second.measured), "a resumed search measures nothing again")


def check_progress(searcher: Searcher) -> None:
    """Progress says how far it is and the best so far."""
    problem = example_problem()
    calls: list[tuple[int, int, str]] = []
    run(
        searcher,
        problem,
        evaluator=_evaluator(problem),
        budget=20,
        progress=lambda done, total, text: calls.append((done, total, text)),
    )
    _must(bool(calls), "progress is called")
    _must(all(0 <= done <= total for done, total, _ in calls), "0 <= done <= total")
    _must(any(text for _, _, text in calls), "progress says the best so far")


def check_limits(searcher: Searcher) -> None:
    """Counts and sums are limited; a limit on the loss holds as measured, with confidence if asked for."""
    words = ("count(nvfp4) >= 3", "latency_us <= 9")
    problem = example_problem(constraints=words)
    front = run(searcher, problem, budget=60)
    _check_front(problem, front)
    for confidence in (None, 0.95):
        problem = example_problem(constraints=("loss <= 0.3",), confidence=confidence)
        front = run(searcher, problem, evaluator=_evaluator(problem), budget=60)
        _check_front(problem, front)


def check_infeasible(searcher: Searcher) -> None:
    """What cannot be met is an InfeasibleError that names the limit."""
    try:
        run(searcher, example_problem(constraints=("latency_us <= 0.1",)), budget=20)
    except InfeasibleError as error:
        _must("latency_us <= " in str(error), "an InfeasibleError names the limit")
    else:
        _must(False, "limits that cannot be met raise InfeasibleError")


def check_unknown_objective(searcher: Searcher) -> None:
    """An objective that the problem has not is a ProblemError."""
    try:
        run(searcher, example_problem(), objectives=("speed", "loss"))
    except ProblemError:
        return
    _must(False, "an unknown objective raises ProblemError")


def check_code(searcher: Searcher) -> None:
    """A constraint that is code is kept, or refused with a ProblemError."""

    def even(rows: Ints) -> Bools:
        return np.asarray(rows.sum(axis=1) % 2 == 0)

    problem = example_problem(constraints=(even,))
    try:
        front = run(searcher, problem, budget=60)
    except ProblemError:
        return
    _check_front(problem, front)


def check_three_objectives(searcher: Searcher) -> None:
    """Three objectives give a front of three, or are refused with a ProblemError."""
    problem = example_problem()
    size = np.exp(-problem.objectives["latency_us"])
    wider = Problem({**problem.objectives, "weight_bytes": size}, allowed=problem.allowed)
    try:
        front = run(searcher, wider, objectives=("latency_us", "loss", "weight_bytes"), budget=60)
    except ProblemError:
        return
    _check_front(wider, front)
    _must(front.objectives.shape[1] == 3, "three objectives give three columns")


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        check.__name__.removeprefix("check_"): check
        for check in (
            check_declaration,
            check_predicted_front,
            check_hard_problems,
            check_measured_front,
            check_budget,
            check_deadline,
            check_repeatability,
            check_resuming,
            check_progress,
            check_limits,
            check_infeasible,
            check_unknown_objective,
            check_code,
            check_three_objectives,
        )
    }
)
"""Name to check."""
