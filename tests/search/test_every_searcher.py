"""Every searcher, third parties' included, passes the conformance suite; on random problems brute force agrees."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpsearch import registry
from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.problem.pareto import non_dominated
from mpsearch.problem.problem import Problem
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Ints
from mpsearch.testing.searchers import CHECKS, Interacting, example_problem
from tests.support.own_calls import searching
from tests.support.random_problems import random_problem

RANDOM = registry.find("searchers", "random")
METHODS = registry.list_names("searchers")
INEXACT = [name for name in METHODS if name not in ("exact", "milp")]
QUICK = range(0, 200, 20)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("check", CHECKS)
def test_every_searcher_conforms(check: str, method: str) -> None:
    CHECKS[check](registry.find("searchers", method))


def assert_valid(method: str, seed: int) -> None:
    """The front of ``method`` on random problem ``seed`` is valid, and no better than brute force."""
    problem, oracle = random_problem(seed)
    front = searching(method)(problem, budget=40)
    assert front.points
    assert problem.feasible(front.assignments).all()
    assert non_dominated(front.objectives).all()
    row_of = {tuple(row): k for k, row in enumerate(oracle.rows.tolist())}
    scale = np.abs(oracle.values).max(axis=0) + 1e-300
    for point, values in zip(front.points, front.objectives, strict=True):
        k = row_of[point.assignment]
        assert oracle.feasible[k]
        assert (np.abs(values - oracle.values[k]) / scale).max() < 1e-9


@pytest.mark.parametrize("seed", QUICK)
@pytest.mark.parametrize("method", INEXACT)
def test_fronts_of_random_problems_are_valid(method: str, seed: int) -> None:
    assert_valid(method, seed)


@pytest.mark.slow
@pytest.mark.parametrize("method", INEXACT)
def test_fronts_of_200_random_problems_are_valid(method: str) -> None:
    for seed in range(200):
        assert_valid(method, seed)


def test_random_problems_hold_everything_that_may_occur() -> None:
    found = {"tie", "forbid", "count", "latency_us", "loss"}
    kinds = dict.fromkeys((*found, "edges", "chain", "loss pairs", "not allowed", "equal"), 0)
    scales = []
    for seed in range(200):
        problem, oracle = random_problem(seed)
        for word in found:
            kinds[word] += any(str(text).startswith(word) for text in problem.constraints)
        kinds["edges"] += bool(len(problem.edges))
        steps = np.abs(np.diff(problem.edges, axis=1)).ravel()
        kinds["chain"] += len(steps) == problem.n_groups - 1 and bool((steps == 1).all())
        kinds["loss pairs"] += "loss" in problem.pair_terms
        kinds["not allowed"] += not problem.allowed.all()
        values = oracle.values[oracle.feasible]
        kinds["equal"] += len(np.unique(values, axis=0)) < len(values) / 2
        scales.append(np.abs(problem.objectives["loss"]).max())
        assert 3 <= problem.n_groups <= 8
        assert 2 <= problem.n_schemes <= 5
    assert min(kinds.values()) >= 20, kinds
    assert min(scales) < 1e-8
    assert max(scales) > 1e8


@pytest.mark.parametrize("method", ["nsga2", "nsga3", "de", "random", "policy", "greedy", "exact"])
def test_constraints_as_code_are_kept(method: str) -> None:
    problem = example_problem(constraints=(lambda rows: rows.sum(axis=1) % 2 == 0,))
    front = searching(method)(problem, budget=60)
    assert (front.assignments.sum(axis=1) % 2 == 0).all()


@pytest.mark.parametrize("method", ["nsga2", "nsga3", "de", "exact", "milp", "optuna", "random"])
def test_three_objectives(method: str) -> None:
    problem = Problem(
        {name: np.random.default_rng(k).random((5, 3)) for k, name in enumerate("abc")}
    )
    front = searching(method)(problem, objectives=("a", "b", "c"), budget=60)
    assert front.objectives.shape[1] == 3


@pytest.mark.parametrize("method", ["refine", "nsga2", "nsga3", "de", "optuna", "relaxed"])
def test_a_seeded_search_never_ends_below_its_seeds(method: str) -> None:
    problem = example_problem()
    more = {"seeded": True} if method not in ("refine",) else {}
    evaluator = Interacting(problem.objectives["loss"])
    front = searching(method)(problem, evaluator=evaluator, budget=40, **more)
    reference = [problem.objectives["latency_us"].max(axis=1).sum() * 2, 2.0]
    curve = [volume for _, volume in front.hypervolume_history(reference)]
    assert curve == sorted(curve)
    assert front.hypervolume(reference) == pytest.approx(curve[-1])


def _worse(**wrong: Any) -> Searcher:
    """A random searcher that overrules its task."""
    return Searcher(lambda task: RANDOM.search(replace(task, **wrong)))


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("measured_front", {"evaluator": None}),
        ("budget", {"budget": 100}),
        ("deadline", {"deadline": None}),
        ("progress", {"progress": None}),
        ("unknown_objective", {"objectives": ("latency_us", "loss")}),
    ],
)
def test_the_suite_finds_a_searcher_that_breaks_a_promise(
    check: str, wrong: dict[str, object]
) -> None:
    CHECKS[check](RANDOM)
    with pytest.raises(AssertionError, match="a searcher must keep"):
        CHECKS[check](_worse(**wrong))


def test_the_suite_finds_a_front_that_is_not_repeatable() -> None:
    calls = iter(range(100))

    def drifting(task: Task) -> Front:
        return RANDOM.search(replace(task, seed=next(calls)))

    with pytest.raises(AssertionError, match="same seed"):
        CHECKS["repeatability"](Searcher(drifting))


def test_the_suite_finds_an_infeasible_front() -> None:
    def loose(task: Task) -> Front:
        return RANDOM.search(replace(task, problem=task.problem.changed(constraints=())))

    with pytest.raises(AssertionError, match="feasible"):
        CHECKS["limits"](Searcher(loose))


def test_the_suite_finds_a_setting_without_a_default() -> None:
    def search(task: Task, *, size: int) -> Front:
        return RANDOM.search(task)

    with pytest.raises(AssertionError, match=r"setting .size. .* must have a default"):
        CHECKS["declaration"](Searcher(search))


def test_the_suite_gives_an_evaluator_to_a_searcher_that_needs_one() -> None:
    def search(task: Task) -> Front:
        assert task.evaluator is not None
        return RANDOM.search(task)

    for check in CHECKS.values():
        check(Searcher(search, needs_evaluator=True))


def test_relaxed_refuses_what_is_not_one_cost_and_the_loss() -> None:
    def rows_sum(rows: Ints) -> np.ndarray:
        return rows.sum(axis=1) > 0

    with pytest.raises(ProblemError, match="words only"):
        searching("relaxed")(example_problem(constraints=(rows_sum,)))
