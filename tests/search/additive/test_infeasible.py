from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest

from mpsearch.errors import InfeasibleError
from mpsearch.problem.problem import Problem
from mpsearch.search.additive.infeasible import explain_infeasible
from tests.support.own_calls import searching
from tests.support.random_problems import random_problem

search = searching("exact")


@dataclass(frozen=True)
class Limit:
    """A constraint in words, which rows meet it, and what it limits."""

    text: str
    met: np.ndarray
    values: np.ndarray | None = None
    limit: float = 0.0


def infeasible_problem(seed: int) -> tuple[Problem, np.ndarray, list[Limit]]:
    """A problem that nothing meets, which rows are allowed, and its constraints: limits, ties, pairs."""
    for attempt in range(500):
        problem, oracle = random_problem(seed * 1000 + attempt, constrained=False)
        rng = np.random.default_rng([seed, attempt])
        rows, size = oracle.rows, rng.uniform(1, 2, problem.allowed.shape)
        total = size[np.arange(problem.n_groups), rows].sum(axis=1)
        count = (rows == 0).sum(axis=1).astype(float)
        inside = problem.allowed[np.arange(problem.n_groups), rows].all(axis=1)
        found = [_structure(problem, text, rows) for text in problem.constraints]
        for name, values in (
            ("latency_us", oracle.values[:, 0]),
            ("loss", oracle.values[:, 1]),
            ("weight_bytes", total),
            (f"count({problem.schemes[0]})", count),
        ):
            if rng.random() < 0.7 and len(np.unique(values[inside])) > 1:
                found.append(_limit(name, values, inside, rng))
        all_met = inside & np.logical_and.reduce([limit.met for limit in found] or [inside])
        limits = [limit for limit in found if limit.values is not None]
        if limits and not all_met.any():
            words = [limit.text for limit in found]
            changed = Problem(
                {**problem.objectives, "weight_bytes": size},
                allowed=problem.allowed,
                edges=problem.edges,
                pair_terms=problem.pair_terms,
                schemes=problem.schemes,
                groups=problem.groups,
                constraints=words,
            )
            return changed, inside, found
    raise AssertionError("no infeasible problem in 500 draws")


def _structure(problem: Problem, text: str, rows: np.ndarray) -> Limit:
    inside = text[text.index("(") + 1 : -1]
    if text.startswith("tie"):
        a, b = (problem.groups.index(name) for name in inside.split(", "))
        return Limit(text, rows[:, a] == rows[:, b])
    (g, s), (h, r) = (part.split("=") for part in inside.split(", "))
    taken = rows[:, problem.groups.index(g)] == problem.schemes.index(s)
    return Limit(text, ~(taken & (rows[:, problem.groups.index(h)] == problem.schemes.index(r))))


def _limit(name: str, values: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> Limit:
    low, high = values[inside].min(), values[inside].max()
    sign = "<=" if rng.random() < 0.6 else ">="
    if name.startswith("count") and rng.random() < 0.4:
        sign, limit = "==", float(rng.integers(0, len(values)) % 7)
        return Limit(f"{name} == {limit:g}", values == limit, values, limit)
    share = rng.uniform(-0.2, 0.3)
    limit = float(low + (high - low) * (share if sign == "<=" else 1 - share))
    met = values <= limit if sign == "<=" else values >= limit
    return Limit(f"{name} {sign} {limit!r}", met, values, limit)


@pytest.mark.parametrize("seed", range(50))
def test_the_explanation_is_minimal_and_the_nearest_values_right(seed: int) -> None:
    problem, allowed, limits = infeasible_problem(seed)
    wanted: dict[frozenset[str], dict[str, float | None]] = {}
    for size in range(1, len(limits) + 1):
        for dropped in combinations(limits, size):
            inside = allowed.copy()
            for limit in limits:
                inside &= limit.met | (limit in dropped)
            if inside.any():
                wanted[frozenset(limit.text for limit in dropped)] = {
                    limit.text: None
                    if limit.values is None
                    else np.abs(limit.values[inside] - limit.limit).min()
                    for limit in dropped
                }
        if wanted:
            break
    limit_of = {limit.text: limit.limit for limit in limits}
    scale_of = {
        limit.text: 1.0 if limit.values is None else float(np.abs(limit.values).max())
        for limit in limits
    }
    found = explain_infeasible(problem)
    assert {frozenset(r.constraints) for r in found} == set(wanted)
    for relaxation in found:
        distances = wanted[frozenset(relaxation.constraints)]
        for text, value in zip(relaxation.constraints, relaxation.nearest, strict=True):
            if distances[text] is None:
                assert value is None
            else:
                assert value is not None
                mine = abs(value - limit_of[text])
                assert mine == pytest.approx(distances[text], abs=1e-9 * scale_of[text])


def test_of_too_many_constraints_one_irreducible_set_is_named() -> None:
    G = 30
    problem = Problem(
        {"latency_us": [[1.0, 2.0]] * G, "loss": [[2.0, 1.0]] * G},
        constraints=[f"latency_us <= {5 + k}" for k in range(G - 10)] + ["loss <= 31"],
    )
    (relaxation,) = explain_infeasible(problem)
    assert relaxation.constraints == ("loss <= 31",) or len(relaxation.constraints) > 1
    kept = [text for text in problem.constraints if text not in relaxation.constraints]
    assert explain_infeasible(problem.changed(constraints=kept)) == []
    for text in relaxation.constraints:
        assert explain_infeasible(problem.changed(constraints=[*kept, text])) != []


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
