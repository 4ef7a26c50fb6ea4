"""What every searcher promises, third parties' included: parametrised over all registered names."""

import inspect

import numpy as np
import pytest
from random_problems import Bent, random_problem, small_problem

from mpsearch import registry
from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.pareto import Front, non_dominated
from mpsearch.problem import Problem

METHODS = registry.list_names("searchers")
MEASURING = [name for name in METHODS if name not in ("exact", "milp", "hull", "greedy")]


def run(method: str, problem: Problem, **more: object) -> Front:
    return registry.find("searchers", method)(problem, **more)


def key(front: Front) -> list[tuple[object, ...]]:
    return [(p.assignment, dict(p.predicted), dict(p.measured)) for p in front.points]


@pytest.mark.parametrize("method", METHODS)
class TestEverySearcher:
    def test_takes_the_common_arguments(self, method: str) -> None:
        names = inspect.signature(registry.find("searchers", method)).parameters
        wanted = {"objectives", "evaluator", "budget", "seed", "progress", "time_limit_s"}
        assert wanted <= set(names)

    def test_front_is_feasible_and_non_dominated(self, method: str) -> None:
        problem = small_problem()
        front = run(method, problem, budget=150)
        assert front.points
        assert problem.feasible(front.assignments).all()
        assert non_dominated(front.objectives).all()
        assert front.names == ("latency_us", "loss")
        assert front.method
        assert (np.diff(front.objectives[:, 0]) > 0).all()

    def test_random_problems_are_handled(self, method: str) -> None:
        for seed in range(3):
            problem, _ = random_problem(seed + 1000)
            front = run(method, problem, budget=40)
            assert problem.feasible(front.assignments).all()
            assert non_dominated(front.objectives).all()

    def test_predictions_are_the_problem_s_own(self, method: str) -> None:
        problem = small_problem()
        front = run(method, problem, budget=60)
        totals = problem.evaluate(front.assignments)
        for name, values in totals.items():
            assert [point.predicted[name].mean for point in front.points] == values.tolist()

    def test_with_an_evaluator_every_point_is_measured(self, method: str) -> None:
        problem = small_problem()
        evaluator = Bent(problem.objectives["loss"])
        front = run(method, problem, evaluator=evaluator, budget=30)
        again = Bent(problem.objectives["loss"])
        for point in front.points:
            assert point.measured["loss"] == again.evaluate(np.array([point.assignment]))[0]
        assert non_dominated(front.objectives).all()
        assert front.history
        assert front.history[-1].spent <= 30

    def test_the_budget_is_kept(self, method: str) -> None:
        problem = small_problem()
        evaluator = Bent(problem.objectives["loss"])
        run(method, problem, evaluator=evaluator, budget=17)
        assert len(set(evaluator.measured)) == len(evaluator.measured) <= 17

    def test_same_seed_same_front(self, method: str) -> None:
        problem = small_problem()
        first, second = (
            run(method, problem, evaluator=Bent(problem.objectives["loss"]), budget=25, seed=3)
            for _ in range(2)
        )
        assert key(first) == key(second)
        assert first.history == second.history

    def test_progress_tells_how_far_it_is(self, method: str) -> None:
        calls: list[tuple[int, int, str]] = []
        problem = small_problem()
        run(
            method,
            problem,
            evaluator=Bent(problem.objectives["loss"]),
            budget=20,
            progress=lambda done, total, text: calls.append((done, total, text)),
        )
        assert calls
        assert all(0 <= done <= total for done, total, _ in calls)

    def test_measured_limits_hold_as_measured(self, method: str) -> None:
        problem = small_problem(constraints=("loss <= 0.3",))
        front = run(method, problem, evaluator=Bent(problem.objectives["loss"]), budget=60)
        assert all(point.measured["loss"].mean <= 0.3 for point in front.points)

    def test_counts_and_sizes_are_limited(self, method: str) -> None:
        problem = small_problem(constraints=("count(nvfp4) >= 3", "latency_us <= 9"))
        front = run(method, problem, budget=60)
        assert ((front.assignments == 2).sum(axis=1) >= 3).all()
        assert (front.objectives[:, 0] <= 9 + 1e-9).all()

    def test_infeasible_is_refused(self, method: str) -> None:
        problem = small_problem(constraints=("latency_us <= 0.1",))
        with pytest.raises(InfeasibleError, match="latency_us <= "):
            run(method, problem, budget=20)

    def test_an_unknown_objective_is_refused(self, method: str) -> None:
        with pytest.raises(ProblemError):
            run(method, small_problem(), objectives=("speed", "loss"))

    def test_a_time_limit_still_gives_a_front(self, method: str) -> None:
        problem = small_problem()
        front = run(
            method,
            problem,
            evaluator=Bent(problem.objectives["loss"]),
            budget=100_000 if method not in ("exact", "milp", "hull", "greedy") else 20,
            time_limit_s=0.3,
        )
        assert front.points


@pytest.mark.parametrize("method", ["nsga2", "nsga3", "de", "random", "policy", "greedy"])
def test_constraints_as_code_are_kept(method: str) -> None:
    problem = small_problem(constraints=(lambda rows: rows.sum(axis=1) % 2 == 0,))
    front = run(method, problem, budget=60)
    assert (front.assignments.sum(axis=1) % 2 == 0).all()


@pytest.mark.parametrize("method", ["nsga2", "nsga3", "de", "exact", "optuna", "random"])
def test_three_objectives(method: str) -> None:
    problem = small_problem()
    wider = Problem(
        {**problem.objectives, "weight_bytes": np.exp(-problem.objectives["latency_us"])},
        allowed=problem.allowed,
    )
    front = run(method, wider, objectives=("latency_us", "loss", "weight_bytes"), budget=60)
    assert front.objectives.shape[1] == 3
    assert non_dominated(front.objectives).all()


@pytest.mark.parametrize("method", ["refine", "nsga2", "nsga3", "de", "optuna", "relaxed"])
def test_a_seeded_search_never_ends_below_its_seeds(method: str) -> None:
    problem = small_problem()
    more = {"seeded": True} if method not in ("refine",) else {}
    evaluator = Bent(problem.objectives["loss"])
    front = run(method, problem, evaluator=evaluator, budget=40, **more)
    reference = [problem.objectives["latency_us"].max(axis=1).sum() * 2, 2.0]
    curve = [volume for _, volume in front.hypervolume_history(reference)]
    assert curve == sorted(curve)
    assert front.hypervolume(reference) == pytest.approx(curve[-1])
