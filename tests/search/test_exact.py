import numpy as np
import pytest

from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.problem.problem import Problem
from mpsearch.search.additive.elimination import MAX_ARCS
from mpsearch.search.additive.ordering import find_order
from tests.support.own_calls import searching
from tests.support.random_problems import assert_same_front, random_problem

search = searching("exact")


@pytest.mark.parametrize("seed", range(200))
def test_exact_equals_brute_force(seed: int) -> None:
    problem, oracle = random_problem(seed)
    front = search(problem)
    scale = np.abs(oracle.values).max(axis=0) + 1e-300
    assert_same_front(front.objectives, oracle.front(), scale)
    assert front.certificate.startswith("complete")
    assert problem.feasible(front.assignments).all()


def test_three_objectives_equal_brute_force() -> None:
    for seed in range(20):
        problem, oracle = random_problem(seed, constrained=False)
        G, S = problem.allowed.shape
        if oracle.feasible.sum() > 2000:
            continue
        size = np.random.default_rng(seed).uniform(1, 2, (G, S))
        wider = Problem(
            {**problem.objectives, "weight_bytes": size},
            allowed=problem.allowed,
            edges=problem.edges,
            pair_terms=problem.pair_terms,
            schemes=problem.schemes,
            groups=problem.groups,
            constraints=problem.constraints,
        )
        bytes_ = size[np.arange(G), oracle.rows].sum(axis=1)
        values = np.column_stack([oracle.values, bytes_])[oracle.feasible]
        scaled = values / (np.abs(values).max(axis=0) + 1e-300)
        kept = [
            i
            for i, row in enumerate(scaled)
            if not ((scaled <= row + 1e-11).all(axis=1) & (scaled < row - 1e-11).any(axis=1)).any()
        ]
        front = search(wider, objectives=("latency_us", "loss", "weight_bytes"))
        scale = np.abs(values).max(axis=0) + 1e-300
        assert_same_front(front.objectives, values[kept], scale)


def test_one_objective_gives_its_least_value() -> None:
    problem, oracle = random_problem(3)
    front = search(problem, objectives=("loss",))
    assert len(front.points) == 1
    assert front.objectives[0, 0] == pytest.approx(oracle.values[oracle.feasible, 1].min())


def test_constraints_as_code_are_met_on_small_problems() -> None:
    problem, _ = random_problem(4, constrained=False)
    even = Problem(
        problem.objectives,
        allowed=problem.allowed,
        schemes=problem.schemes,
        constraints=[lambda rows: rows.sum(axis=1) % 2 == 0],
    )
    assert (search(even).assignments.sum(axis=1) % 2 == 0).all()


def test_a_stated_eps_holds() -> None:
    rng = np.random.default_rng(0)
    values = {"latency_us": rng.random((20, 4)), "loss": rng.random((20, 4))}
    problem = Problem(values)
    full, rough = search(problem), search(problem, eps=0.02)
    assert len(rough.points) < len(full.points)
    assert rough.certificate.startswith("eps=")
    eps = float(rough.certificate.split(":")[0].removeprefix("eps="))
    spans = np.ptp(full.objectives, axis=0)
    for row in full.objectives:
        assert ((rough.objectives <= row + 1.05 * eps * spans).all(axis=1)).any()


def test_edges_without_effect_cost_nothing() -> None:
    G, S = 24, 3
    rng = np.random.default_rng(1)
    edges = [(i, j) for i in range(G) for j in range(i + 1, G)]
    problem = Problem(
        {"latency_us": rng.random((G, S)), "loss": rng.random((G, S))},
        edges=edges,
        pair_terms={"latency_us": np.zeros((len(edges), S, S))},
    )
    assert search(problem).certificate.startswith("complete")


def test_edges_that_are_too_dense_are_refused_in_words() -> None:
    G, S = 40, 4
    edges = [(i, j) for i in range(G) for j in range(i + 1, G)]
    problem = Problem(
        {"latency_us": np.ones((G, S)), "loss": np.ones((G, S))},
        edges=edges,
        pair_terms={"latency_us": np.ones((len(edges), S, S))},
    )
    with pytest.raises(ProblemError, match=f"at most {MAX_ARCS} states.*milp"):
        search(problem)


def test_infeasible_limits_are_refused() -> None:
    problem = Problem(
        {"latency_us": [[1.0, 2.0]], "loss": [[2.0, 1.0]]}, constraints=["latency_us <= 0.5"]
    )
    with pytest.raises(InfeasibleError, match=r"latency_us <= 0\.5"):
        search(problem)


def test_the_order_of_a_shuffled_chain_keeps_one_group_at_the_frontier() -> None:
    rng = np.random.default_rng(5)
    chain = rng.permutation(60)
    edges = np.stack([chain[:-1], chain[1:]], axis=1)
    order = find_order(np.full(60, 4), edges)
    place = np.argsort(order)
    cut = [
        sum(min(place[i], place[j]) <= t < max(place[i], place[j]) for i, j in edges)
        for t in range(59)
    ]
    assert max(cut) == 1


def test_constants_are_part_of_totals_and_limits() -> None:
    problem = Problem(
        {"latency_us": [[1.0, 3.0]], "loss": [[2.0, 1.0]]},
        constants={"latency_us": 10.0},
        constraints=["latency_us <= 12"],
    )
    front = search(problem)
    assert front.objectives.tolist() == [[11.0, 2.0]]
