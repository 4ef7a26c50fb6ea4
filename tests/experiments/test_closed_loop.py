"""The closed loop's figures: errors and orders are what they are called."""

import numpy as np
import pytest

from experiments.closed_loop import PLANS, agreement, random_plans


def test_errors_and_orders_of_made_up_plans() -> None:
    rows = [
        {"measured_us": 100.0, "stderr_us": 1.0, "said": 110.0},
        {"measured_us": 200.0, "stderr_us": 1.0, "said": 190.0},
        {"measured_us": 201.0, "stderr_us": 1.0, "said": 180.0},  # in the noise of the one before
    ]
    found = agreement(rows, "said")
    assert found["mape"] == pytest.approx((0.1 + 0.05 + 21 / 201) / 3)
    assert found["order"] == pytest.approx(2 / 3)
    assert found["share_apart"] == pytest.approx(2 / 3)
    assert found["order_apart"] == 1.0


def test_plans_are_the_uniform_ones_and_random_ones_of_every_share() -> None:
    plans = random_plans(50)
    assert len(plans) == PLANS + 2
    assert set(plans["fp32"]) == {0}
    assert set(plans["int8"]) == {1}
    shares = [np.mean(chosen) for name, chosen in plans.items() if name.startswith("random")]
    assert min(shares) < 0.2 < 0.8 < max(shares)
