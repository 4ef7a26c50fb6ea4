"""What is noise decides nothing: equal losses go to the cheaper point."""

import numpy as np
import pytest

from mpsearch.problem.front import Point
from mpsearch.problem.ties import Difference, find_better, prefer, unpaired
from mpsearch.stats.estimates import Estimate, estimate_mean


def point(number: int, loss: float, latency: float, size: float, stderr: float = 0.0) -> Point:
    predicted = {"latency_us": Estimate(latency), "weight_bytes": Estimate(size)}
    return Point((number,), predicted, {"loss": Estimate(loss, stderr)})


def test_equal_losses_go_to_the_faster_point_and_then_to_the_smaller() -> None:
    least = point(0, 5e-6, 18.2, 900, 9e-6)
    faster = point(1, 6e-6, 12.2, 700, 9e-6)
    smaller = point(2, 6e-6, 12.2, 650, 9e-6)
    worse = point(3, 9e-3, 5.0, 100, 9e-6)
    assert prefer([least, faster, worse]) is faster
    assert prefer([least, faster, smaller, worse]) is smaller


def test_a_loss_that_is_clearly_higher_is_not_equal_however_cheap() -> None:
    assert prefer([point(0, 0.01, 9, 9, 1e-3), point(1, 0.02, 1, 1, 1e-3)]).assignment == (0,)


def test_pairs_tell_apart_what_single_errors_do_not() -> None:
    rng = np.random.default_rng(0)
    shared = rng.exponential(1.0, 64)  # what makes a sample hard is the same for both
    losses = {0: shared, 1: shared * 1.05}
    points = [
        Point(
            (i,),
            {"latency_us": Estimate(10.0 - i), "weight_bytes": Estimate(1.0)},
            {"loss": estimate_mean(losses[i])},
        )
        for i in losses
    ]

    def paired(a: Point, b: Point) -> Estimate:
        return estimate_mean(losses[a.assignment[0]] - losses[b.assignment[0]])

    assert prefer(points, unpaired).assignment == (1,)
    assert prefer(points, paired).assignment == (0,)


@pytest.mark.parametrize(
    ("rival", "beats"),
    [
        (point(1, 0.0100, 4.0, 90, 1e-3), True),  # as good, faster and smaller
        (point(1, 0.0100, 5.0, 90, 1e-3), True),  # as good and fast, smaller
        (point(1, 0.0100, 5.0, 100, 1e-3), False),  # the same in all
        (point(1, 0.0100, 4.0, 110, 1e-3), False),  # larger
        (point(1, 0.0300, 4.0, 90, 1e-3), False),  # loses more
    ],
)
def test_a_rival_is_better_if_it_costs_less_and_loses_no_more(rival: Point, beats: bool) -> None:
    mine = point(0, 0.0099, 5.0, 100, 1e-3)
    assert (find_better(mine, [rival]) is rival) == beats


def test_no_error_means_no_ties() -> None:
    exact: Difference = unpaired
    assert prefer([point(0, 0.1, 9, 9), point(1, 0.1 + 1e-12, 1, 1)], exact).assignment == (0,)


def test_a_loss_that_is_hardly_known_equals_none_that_is_known_well() -> None:
    known = point(0, 0.02, 9, 900, 0.005)
    guessed = point(1, 0.053, 5, 400, 0.069)
    assert prefer([known, guessed]) is known
    assert find_better(known, [guessed]) is None
    both_guessed = point(0, 0.02, 9, 900, 0.06)
    assert prefer([both_guessed, guessed]) is guessed
    assert find_better(both_guessed, [guessed]) is guessed


def test_losses_below_a_thousandth_equal_what_is_known_exactly() -> None:
    """The base loses nothing and has no error; what 16 bits seem to lose is noise."""
    base = point(0, 0.0, 9, 900)
    assert prefer([base, point(1, 1e-5, 5, 400, 2e-5)]).assignment == (1,)
    assert prefer([base, point(1, 0.05, 5, 400, 0.07)]).assignment == (0,)
