import numpy as np
import pytest

from mpsearch.cost.device import Device, read_device
from mpsearch.cost.fit.borrow import borrowed_prior, find_alike, likeness
from mpsearch.cost.measured import theta_of
from tests.support.measured_kernels import board

CURVE = {
    "launch_us": 5.0,
    "power": 3.0,
    "efficiency": 0.8,
    "memory_efficiency": 0.9,
    "stream": 3.0,
    "prologue_k": 30.0,
    "tile_loss": 10.0,
    "split_loss": 1.0,
    "wide_loss": 0.1,
    "large_loss": 0.1,
    "relative_error": 0.1,
    "points": 100,
}


def lender(name: str, watt: float, **kernels: dict[str, object]) -> Device:
    """A device whose groups are ``format={parameter: value}``."""
    made = [{"format": kind, **CURVE, **changes} for kind, changes in kernels.items()]
    return board(name=name, max_power_w=watt, kernels=made)


def test_devices_of_as_much_arithmetic_a_watt_count_most() -> None:
    names = ("h100_pcie_80gb", "rtx4090", "b200_hgx")
    h100, rtx4090, b200 = likeness(read_device("rtx5080"), [read_device(name) for name in names])
    assert rtx4090 > 5 * max(h100, b200)
    assert likeness(board(), [board(max_power_w=100)]).tolist() == [1.0]


def test_parameters_are_means_over_alike_devices() -> None:
    near = lender("near", 100, fp16={"launch_us": 2.0})
    far = lender("far", 100_000, fp16={"launch_us": 200.0})
    prior, source = borrowed_prior(board(max_power_w=100), ("fp16", "dense"), [near, far], {})
    assert np.exp(prior.theta[0]) == pytest.approx(2.0, rel=0.01)
    assert source == "fp16 dense of near, far"


def test_a_device_keeps_most_of_its_offset_in_other_formats() -> None:
    other = lender("other", 100, fp16={}, fp8={})
    own = theta_of(other.kernels[0]) + np.log(2.0)
    prior, _ = borrowed_prior(board(), ("fp8", "dense"), [other], {("fp16", "dense"): own})
    np.testing.assert_allclose(prior.theta - theta_of(other.kernels[1]), 0.7 * np.log(2.0))


def test_kernels_far_below_their_devices_others_lend_nothing() -> None:
    gap = lender("gap", 100, fp16={}, bf16={}, fp8={"efficiency": 0.1})
    good = lender("good", 100_000, fp8={"launch_us": 9.0})
    prior, source = borrowed_prior(board(max_power_w=100), ("fp8", "dense"), [gap, good], {})
    assert source == "fp8 dense of good"
    assert np.exp(prior.theta[0]) == pytest.approx(9.0)


def test_the_likest_format_is_the_nearest_at_the_same_sparsity() -> None:
    known = {("bf16", "dense"), ("fp8", "2:4"), ("int8", "dense")}
    assert find_alike(("fp16", "dense"), known) == ("bf16", "dense")
    assert find_alike(("fp16", "2:4"), known) == ("fp8", "2:4")
    assert find_alike(("nvfp4", "4:8_paired"), known) == ("fp8", "2:4")
    assert find_alike(("fp32", "dense"), {("int8", "2:4")}) is None
