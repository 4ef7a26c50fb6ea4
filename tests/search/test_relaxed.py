from itertools import product

import numpy as np
import pytest

from mpsearch.problem.problem import Problem
from mpsearch.search.additive.contraction import reduce_problem
from mpsearch.search.relaxed import expected_cost
from mpsearch.stats.estimates import Estimate
from tests.support.own_calls import searching
from tests.support.random_problems import random_problem

search = searching("relaxed")


class Errors:
    """The loss is the squared length of summed error vectors: no sum over groups."""

    def __init__(self, G: int, S: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        size = rng.lognormal(-1, 1, (G, 1)) * np.array([0.01, 0.3, 1.0])[:S]
        self.vectors = rng.standard_normal((G, S, 20)) * size[:, :, None] / 20**0.5

    def evaluate(self, assignments: np.ndarray, *, fraction: float = 1.0) -> list[Estimate]:
        hot = assignments[:, :, None] == np.arange(self.vectors.shape[1])
        return [Estimate(self.loss_and_gradient(p.astype(float))[0].mean, 1e-3) for p in hot]

    def loss_and_gradient(self, probabilities: np.ndarray) -> tuple[Estimate, np.ndarray]:
        total = np.einsum("gs,gsk->k", probabilities, self.vectors)
        return Estimate(float(total @ total), 1e-3), 2 * self.vectors @ total


@pytest.mark.parametrize("seed", range(2))
def test_the_plan_within_a_limit_is_among_the_best_hundredth(seed: int) -> None:
    G, S = 8, 3
    rng = np.random.default_rng(seed)
    cost = rng.lognormal(0, 1, (G, 1)) * np.array([1.0, 0.5, 0.3])
    limit = 0.55 * cost[:, 0].sum()
    problem = Problem(
        {"latency_us": cost, "loss": np.zeros((G, S))}, constraints=(f"latency_us <= {limit}",)
    )
    evaluator = Errors(G, S, seed)
    rows = np.array(list(product(range(S), repeat=G)))
    rows = rows[problem.feasible(rows)]
    good = np.quantile([loss.mean for loss in evaluator.evaluate(rows)], 0.01)
    front = search(problem, evaluator=evaluator, budget=160, targets=1, seed=seed)
    assert front.objectives[:, 1].min() <= good


def test_the_table_of_losses_is_not_read() -> None:
    fronts = []
    for table in (np.zeros((6, 3)), np.random.default_rng(1).random((6, 3))):
        cost = np.random.default_rng(0).random((6, 3))
        problem = Problem({"latency_us": cost, "loss": table})
        fronts.append(search(problem, evaluator=Errors(6, 3, 0), budget=60).assignments.tolist())
    assert fronts[0] == fronts[1]


def test_expected_costs_have_the_gradient_of_their_differences() -> None:
    problems = (random_problem(seed)[0] for seed in range(100))
    problem = next(p for p in problems if "latency_us" in p.pair_terms)
    reduced = reduce_problem(problem, ("latency_us", "loss"))
    assert len(reduced.edges)
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(problem.n_schemes), reduced.n_variables) * reduced.allowed
    value, slope = expected_cost(reduced, p, 0)
    for g, s in np.argwhere(reduced.allowed):
        moved = p.copy()
        moved[g, s] += 0.5  # the cost is linear in each group's probabilities
        assert expected_cost(reduced, moved, 0)[0] - value == pytest.approx(
            0.5 * slope[g, s], rel=1e-6, abs=1e-9 * abs(value)
        )
