import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.figures.shown.scale import Scale, choose_scale


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_every_scale_keeps_the_order_of_values(values: list[float]) -> None:
    scale = choose_scale(values)
    placed = [scale.place(v) for v in sorted(values)]
    assert all(a <= b or math.isclose(a, b) for a, b in pairwise(placed))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 2.0, 3.0], "linear"),
        ([0.01, 0.1, 1.0], "log"),
        ([3e-7, 0.002, 0.9], "symlog"),
        ([-1e-5, 0.002, 0.9], "symlog"),
        ([0.0, 0.0], "linear"),
        ([], "linear"),
    ],
)
def test_the_scale_follows_from_the_values(values: list[float], kind: str) -> None:
    assert choose_scale(values).kind == kind


def test_a_front_of_small_losses_stays_visible_beside_a_large_one() -> None:
    scale = choose_scale([0.0, 0.002, 0.08, 0.95])
    span = scale.place(0.95) - scale.place(0.0)
    assert (scale.place(0.08) - scale.place(0.002)) / span > 0.2


def test_noise_around_zero_is_not_spread_over_decades() -> None:
    scale = choose_scale([-1e-5, 2e-6, 1e-5, 1.0], [0.004, 0.003, 0.005])
    assert scale.threshold == 1e-3


def test_ticks_are_round_and_within_the_axis() -> None:
    ticks = Scale("symlog", 1e-3).ticks(-0.1, 4.0)
    assert [text for _, text in ticks] == ["0", "1e−3", "0.01", "0.1", "1"]
