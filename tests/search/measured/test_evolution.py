import numpy as np
import pytest

from mpsearch.problem.front import Front
from mpsearch.problem.problem import Problem
from mpsearch.testing.searchers import Interacting
from tests.support.own_calls import searching
from tests.support.random_problems import random_problem

search_exactly = searching("exact")

METHODS = ("nsga2", "nsga3", "de")


def layers(seed: int, G: int = 40) -> Problem:
    rng = np.random.default_rng(seed)
    cost = rng.lognormal(0, 1, (G, 1)) * np.array([1.0, 0.5, 0.4, 0.25])
    loss = rng.lognormal(-4, 1, (G, 1)) * np.array([0.01, 0.2, 0.4, 1.0])
    return Problem({"latency_us": cost, "loss": loss})


def measured(method: str, problem: Problem, **settings: object) -> Front:
    evaluator = Interacting(problem.objectives["loss"])
    return searching(method)(problem, evaluator=evaluator, budget=60, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_with_few_measurements_seeds_are_worth_nearly_the_predicted_front(method: str) -> None:
    problem = layers(0)
    corner = [problem.objectives["latency_us"].max(axis=1).sum(), 1.0]
    predicted = search_exactly(
        problem, evaluator=Interacting(problem.objectives["loss"]), budget=60
    )
    seeded = measured(method, problem, seeded=True).hypervolume(corner)
    assert seeded > 0.95 * predicted.hypervolume(corner)
    assert seeded > 1.2 * measured(method, problem, seeded=False).hypervolume(corner)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [2, 5, 30])
def test_a_population_may_be_of_any_size(method: str, size: int) -> None:
    problem, _ = random_problem(3)
    for seeded in (True, False):
        search = searching(method)
        front = search(problem, budget=50, size=size, seeded=seeded)
        assert problem.feasible(front.assignments).all()
