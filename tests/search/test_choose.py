import numpy as np
import pytest

from mpsearch.errors import DataError, InfeasibleError, ProblemError
from mpsearch.pareto import Front, Point
from mpsearch.search.choose import choose_point
from mpsearch.search.risk import judge_drop
from mpsearch.tables import Estimate


def front(*, measured: dict[int, float] = {}) -> Front:
    table = [(10.0, 0.50, 0.00), (20.0, 0.20, 0.15), (30.0, 0.10, 0.01), (40.0, 0.05, 0.01)]
    points = tuple(
        Point(
            (k,),
            {"latency_us": Estimate(x), "loss": Estimate(y, e), "weight_bytes": Estimate(100 - x)},
            {"loss": Estimate(measured[k])} if k in measured else {},
        )
        for k, (x, y, e) in enumerate(table)
    )
    return Front(points, ("latency_us", "loss"), ("a", "b", "c", "d"), ("g",))


def test_the_least_loss_within_a_latency_limit() -> None:
    assert choose_point(front(), limits={"latency_us": 35}).assignment == (2,)


def test_the_least_latency_within_a_loss_limit() -> None:
    assert choose_point(front(), limits={"loss": 0.2}).assignment == (1,)


def test_a_confidence_bound_avoids_an_uncertain_point() -> None:
    assert choose_point(front(), limits={"loss": 0.25}, confidence=0.95).assignment == (2,)


def test_without_limits_the_knee() -> None:
    assert choose_point(front()).assignment == (1,)
    assert choose_point(front(), knee=True).assignment == (1,)


def test_measured_points_are_preferred_to_predictions() -> None:
    assert choose_point(front(measured={2: 0.3}), limits={"latency_us": 40}).assignment == (2,)


def test_limits_on_what_is_no_objective_of_the_front() -> None:
    assert choose_point(front(), limits={"weight_bytes": 65}).assignment == (3,)


def test_an_infeasible_limit_says_the_nearest_feasible_value_of_each() -> None:
    with pytest.raises(InfeasibleError) as caught:
        choose_point(front(), limits={"latency_us": 15, "loss": 0.2})
    assert "latency_us <= 20" in str(caught.value)
    assert "loss <= 0.5" in str(caught.value)


def test_the_nearest_value_is_itself_feasible() -> None:
    points = (Point((0,), {"latency_us": Estimate(10 / 3), "loss": Estimate(1.0)}),)
    thirds = Front(points, ("latency_us", "loss"), ("a",), ("g",))
    with pytest.raises(InfeasibleError) as caught:
        choose_point(thirds, limits={"latency_us": 1.0})
    said = float(str(caught.value).split("latency_us <= ")[-1].split()[0])
    assert choose_point(thirds, limits={"latency_us": said}).assignment == (0,)


def test_an_unknown_limit_is_refused() -> None:
    with pytest.raises(ProblemError, match="latency_us, loss"):
        choose_point(front(), limits={"speed": 1})


def test_a_small_drop_is_kept_and_a_large_one_broken() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random(2000) < 0.9).astype(float)
    worse = scores.copy()
    worse[np.flatnonzero(scores)[:100]] = 0
    assert judge_drop(scores, scores, max_drop=0.01).verdict == "kept"
    assert judge_drop(scores, worse, max_drop=0.01).verdict == "broken"
    assert judge_drop(scores, worse, max_drop=0.2).verdict == "kept"


def test_few_equal_samples_decide_nothing() -> None:
    test = judge_drop(np.ones(20), np.ones(20), max_drop=0.01)
    assert test.verdict == "undecided"
    assert test.samples_needed is not None
    assert test.samples_needed > 20


def test_the_bound_covers_the_true_drop_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        reference = (rng.random(300) < 0.9).astype(float)
        plan = np.where(rng.random(300) < 0.05, 1 - reference, reference)
        true_drop = 0.05 * 0.9 - 0.05 * 0.1
        covered += judge_drop(reference, plan, max_drop=0.01).upper >= true_drop
    assert covered / 400 >= 0.92


def test_the_stated_number_of_samples_would_decide() -> None:
    rng = np.random.default_rng(2)
    difference = rng.normal(0.0, 0.2, 400) + 0.012
    first = judge_drop(difference, np.zeros(400), max_drop=0.02)
    assert first.verdict == "undecided"
    assert first.samples_needed is not None
    again = np.tile(difference, first.samples_needed // 400 + 1)
    assert judge_drop(again, np.zeros(len(again)), max_drop=0.02).verdict == "kept"


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(DataError, match="equally long"):
        judge_drop([1.0, 2.0], [1.0], max_drop=0.1)
