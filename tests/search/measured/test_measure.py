import numpy as np
import pytest

from mpsearch.errors import NumericsError
from mpsearch.problem.problem import Problem
from mpsearch.search.measured.measure import measure_points, rank_correlation
from mpsearch.stats.estimates import Estimate
from tests.support.own_calls import searching

search = searching("exact")


class Doubled:
    def __init__(self, problem: Problem, *, broken: bool = False) -> None:
        self.problem = problem
        self.broken = broken

    def evaluate(self, assignments: np.ndarray, *, fraction: float = 1.0) -> list[Estimate]:
        losses = self.problem.evaluate(assignments)["loss"]
        return [Estimate(float("nan") if self.broken else 2 * value, 0.1) for value in losses]

    def loss_and_gradient(self, probabilities: np.ndarray) -> tuple[Estimate, np.ndarray]:
        raise NotImplementedError


@pytest.fixture
def problem() -> Problem:
    rng = np.random.default_rng(0)
    return Problem({"latency_us": rng.random((10, 3)), "loss": rng.random((10, 3))})


def test_points_over_the_whole_range_are_measured_and_the_rest_stay(problem: Problem) -> None:
    front = search(problem)
    measured = measure_points(front, Doubled(problem), count=7)
    done = [k for k, point in enumerate(measured.points) if point.measured]
    assert len(done) == 7
    assert {0, len(front.points) - 1} <= set(done)
    assert measured.assignments.tolist() == front.assignments.tolist()
    for k in done:
        twice = 2 * front.points[k].predicted["loss"].mean
        assert measured.points[k].measured["loss"] == Estimate(twice, 0.1)


def test_measuring_again_measures_others(problem: Problem) -> None:
    once = measure_points(search(problem), Doubled(problem), count=4)
    twice = measure_points(once, Doubled(problem), count=4)
    assert sum(bool(point.measured) for point in twice.points) == 8


def test_rank_correlation_of_a_monotone_prediction_is_one(problem: Problem) -> None:
    measured = measure_points(search(problem), Doubled(problem), count=8)
    assert rank_correlation(measured) == (pytest.approx(1.0), 8)


def test_rank_correlation_of_too_few_points_is_nan(problem: Problem) -> None:
    value, count = rank_correlation(search(problem))
    assert np.isnan(value)
    assert count == 0


def test_a_loss_that_is_nan_is_an_error(problem: Problem) -> None:
    with pytest.raises(NumericsError, match="nan"):
        measure_points(search(problem), Doubled(problem, broken=True), count=3)
