import numpy as np
import pytest

from mpsearch.problem.problem import Problem
from tests.support.own_calls import searching
from tests.support.random_problems import assert_same_front, random_problem

search_exactly = searching("exact")
search = searching("milp")


@pytest.mark.parametrize("seed", range(200))
def test_milp_equals_brute_force(seed: int) -> None:
    problem, oracle = random_problem(seed)
    front = search(problem)
    scale = np.abs(oracle.values).max(axis=0) + 1e-300
    assert_same_front(front.objectives, oracle.front(), scale)
    assert front.certificate.startswith("complete")


def test_points_carry_a_proven_bound() -> None:
    rng = np.random.default_rng(0)
    problem = Problem({"latency_us": rng.random((30, 4)), "loss": 1e-9 * rng.random((30, 4))})
    front = search(problem, budget=5)
    best = search_exactly(problem).objectives
    for point in front.points:
        assert point.bound is not None
        assert point.gap is not None
        assert point.gap <= 1e-6
        latency, loss = (point.predicted[name].mean for name in ("latency_us", "loss"))
        assert best[best[:, 0] <= latency * (1 + 1e-9), 1].min() == pytest.approx(loss, rel=1e-9)


def test_three_objectives_equal_the_exact_front() -> None:
    rng = np.random.default_rng(1)
    names = ("latency_us", "loss", "weight_bytes")
    problem = Problem({name: rng.integers(1, 9, (4, 3)).astype(float) for name in names})
    a, b = (f(problem, objectives=names).objectives for f in (search, search_exactly))
    assert {tuple(row) for row in a.tolist()} == {tuple(row) for row in b.tolist()}
