import pytest

from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.problem.front import Front, Point
from mpsearch.search.choose_point import choose_point
from mpsearch.stats.estimates import Estimate


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


def noisy(*rows: tuple[float, float, float]) -> Front:
    points = tuple(
        Point(
            (k,),
            {"latency_us": Estimate(latency), "weight_bytes": Estimate(10.0)},
            {"loss": Estimate(loss, error)},
        )
        for k, (latency, loss, error) in enumerate(rows)
    )
    return Front(points, ("latency_us", "loss"), ("a", "b", "c"), ("g",))


def test_losses_within_their_error_are_equal_and_go_to_the_faster_point() -> None:
    found = noisy((12.2, 6e-6, 9e-6), (18.2, 5e-6, 9e-6), (9.0, 0.02, 1e-3))
    assert choose_point(found, limits={"latency_us": 20.0}).assignment == (0,)


def test_the_knee_is_none_whose_loss_another_reaches_sooner() -> None:
    found = noisy((10.0, 0.0010, 0.002), (100.0, 0.0004, 0.002), (101.0, -0.0002, 0.002))
    assert choose_point(found).assignment == (0,)
