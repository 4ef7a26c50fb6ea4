from itertools import combinations

import numpy as np
import pytest
from random_problems import Oracle, random_problem

from mpsearch.errors import InfeasibleError
from mpsearch.problem import Problem
from mpsearch.search.exact import search
from mpsearch.search.infeasible import explain_infeasible


def infeasible_problem(seed: int) -> tuple[Problem, Oracle, list[tuple[str, np.ndarray, float]]]:
    """A problem whose 2-4 limits exclude each other; each as (words, quantity, greatest value)."""
    for attempt in range(200):
        problem, oracle = random_problem(seed * 1000 + attempt, constrained=False)
        rng = np.random.default_rng([seed, attempt])
        size = rng.uniform(1, 2, problem.allowed.shape)
        total = size[np.arange(problem.n_groups), oracle.rows].sum(axis=1)
        count = (oracle.rows == 0).sum(axis=1).astype(float)
        inside = problem.allowed[np.arange(problem.n_groups), oracle.rows].all(axis=1)
        oracle = Oracle(oracle.rows, oracle.values, inside)  # ties and pairs are left out here
        limits = []
        for name, values in (
            ("latency_us", oracle.values[:, 0]),
            ("loss", oracle.values[:, 1]),
            ("weight_bytes", total),
            (f"count({problem.schemes[0]})", count),
        ):
            if rng.random() < 0.7 and len(np.unique(values[inside])) > 1:
                low, high = values[inside].min(), values[inside].max()
                limit = low + (high - low) * rng.uniform(-0.2, 0.3)
                limits.append((f"{name} <= {limit}", values, float(limit)))
        all_met = inside.copy()
        for _, values, limit in limits:
            all_met &= values <= limit
        if limits and not all_met.any():
            words = [text for text, _, _ in limits]
            return _with(problem, size, words), oracle, limits
    raise AssertionError("no infeasible problem in 200 draws")


def _with(problem: Problem, size: np.ndarray, words: list[str]) -> Problem:
    return Problem(
        {**problem.objectives, "weight_bytes": size},
        allowed=problem.allowed,
        edges=problem.edges,
        pair_terms=problem.pair_terms,
        schemes=problem.schemes,
        groups=problem.groups,
        constraints=words,
    )


@pytest.mark.parametrize("seed", range(50))
def test_the_explanation_is_minimal_and_the_nearest_values_right(seed: int) -> None:
    problem, oracle, limits = infeasible_problem(seed)
    found = explain_infeasible(problem)
    met = {text: values <= limit for text, values, limit in limits}
    quantity = {text: values for text, values, _ in limits}
    wanted: dict[frozenset[str], dict[str, float]] = {}
    for size in range(1, len(limits) + 1):
        for dropped in combinations([text for text, _, _ in limits], size):
            inside = oracle.feasible.copy()
            for text, mask in met.items():
                inside &= mask | (text in dropped)
            if inside.any():
                wanted[frozenset(dropped)] = {t: quantity[t][inside].min() for t in dropped}
        if wanted:
            break
    mine = {
        frozenset(r.constraints): dict(zip(r.constraints, r.nearest, strict=True)) for r in found
    }
    assert set(mine) == set(wanted)
    for dropped, nearest in wanted.items():
        for text, value in nearest.items():
            assert mine[dropped][text] == pytest.approx(value, rel=1e-9, abs=1e-300)


def test_a_feasible_problem_needs_no_explanation() -> None:
    problem, _ = random_problem(1)
    assert explain_infeasible(problem) == []


def test_the_error_names_what_to_relax_and_the_nearest_value() -> None:
    problem = Problem(
        {"latency_us": [[1.0, 3.0]] * 2, "loss": [[5.0, 1.0]] * 2},
        constraints=["latency_us <= 4", "loss <= 3"],
    )
    with pytest.raises(InfeasibleError) as caught:
        search(problem)
    assert "latency_us <= 4 (nearest feasible: 6)" in str(caught.value)
    assert "loss <= 3 (nearest feasible: 6)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tie_that_cannot_hold_is_named() -> None:
    problem = Problem(
        {"loss": np.ones((2, 2))}, allowed=[[1, 0], [0, 1]], constraints=["tie(group0, group1)"]
    )
    assert explain_infeasible(problem)[0].constraints == ("tie(group0, group1)",)
    with pytest.raises(InfeasibleError, match="group0, group1"):
        search(problem, objectives=("loss",))
