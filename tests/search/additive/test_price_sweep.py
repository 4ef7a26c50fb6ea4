import numpy as np
import pytest

from mpsearch.problem.pareto import hypervolume
from mpsearch.problem.problem import Problem
from mpsearch.search.additive.contraction import reduce_problem
from mpsearch.search.additive.price_sweep import PricedFronts
from tests.support.own_calls import searching
from tests.support.random_problems import random_problem

search_exactly = searching("exact")

NAMES = ("latency_us", "loss")


def chain(constraints: tuple[str, ...] = (), G: int = 12, S: int = 4) -> Problem:
    rng = np.random.default_rng(5)
    cost = rng.lognormal(0, 1, (G, 1)) * np.array([1.0, 0.5, 0.4, 0.25])[:S]
    size = rng.lognormal(0, 1.5, (G, 1)) * np.array([16.0, 8.0, 4.5, 4.0])[:S]
    loss = rng.lognormal(-3, 1, (G, 1)) * np.array([0.01, 0.2, 0.4, 1.0])[:S]
    return Problem(
        {"latency_us": cost, "loss": loss, "weight_bytes": size},
        edges=[(i, i + 1) for i in range(G - 1)],
        pair_terms={"latency_us": np.tile(0.05 * (1 - np.eye(S)), (G - 1, 1, 1))},
        constraints=constraints,
    )


def solve(problem: Problem, names: tuple[str, ...] = NAMES) -> np.ndarray:
    reduced = reduce_problem(problem, names)
    fronts = PricedFronts(reduced, known=0, loss=1)
    table = reduced.values[..., 1]
    rng = np.random.default_rng(0)
    return reduced.expand(np.concatenate([fronts.solve(table, rng), fronts.solve(table, rng)]))


@pytest.mark.parametrize(
    "constraints",
    [
        (),
        ("weight_bytes <= 120",),
        ("count(scheme3) >= 4", "weight_bytes <= 150"),
        ("latency_us <= 9",),
    ],
)
def test_fronts_are_within_the_limits_and_nearly_exact(constraints: tuple[str, ...]) -> None:
    problem = chain(constraints)
    rows = solve(problem)
    exact = search_exactly(problem)
    assert problem.feasible(rows).all()
    values = np.stack([problem.evaluate(rows)[name] for name in NAMES], axis=1)
    corner = exact.objectives.max(axis=0) * 1.1
    assert hypervolume(values, corner) >= 0.97 * exact.hypervolume(corner)


def test_a_further_objective_is_priced() -> None:
    problem = chain()
    names = (*NAMES, "weight_bytes")
    rows = solve(problem, names)
    exact = search_exactly(problem, objectives=names)
    values = np.stack([problem.evaluate(rows)[name] for name in names], axis=1)
    corner = exact.objectives.max(axis=0) * 1.1
    assert hypervolume(values, corner) >= 0.9 * exact.hypervolume(corner)


def test_edges_too_entangled_for_dynamic_programming_are_averaged() -> None:
    G, S = 24, 5
    edges = [(i, j) for i in range(G) for j in range(i + 1, G)]
    rng = np.random.default_rng(0)
    problem = Problem(
        {"latency_us": rng.random((G, S)), "loss": rng.random((G, S))},
        edges=edges,
        pair_terms={"latency_us": rng.random((len(edges), S, S))},
    )
    rows = solve(problem)
    spread = problem.evaluate(rows)["loss"]
    assert np.ptp(spread) > 0.2 * spread.mean()


def test_random_problems_give_allowed_plans() -> None:
    for seed in range(20):
        problem, _ = random_problem(seed)
        rows = solve(problem)
        assert problem.allowed[np.arange(problem.n_groups), rows].all()
