import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.cost.curve import decode, encode
from mpsearch.cost.device import Device
from mpsearch.cost.fitted import residual_lines, residual_points
from mpsearch.cost.gemm import gemm_latency, latencies
from mpsearch.cost.products import collect
from mpsearch.errors import DeviceError
from mpsearch.schemes import find_scheme
from tests.support.handmade_graph import conv
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
    "cache_gain": 0.2,
}
FACTS = {"format": "fp16", "relative_error": 0.1, "points": 6, **CURVE}
LEFT = {
    "1024 1024": "64 100, 256 100, 1024 100",
    "4096 4096": "64 100, 256 100, 1024 100",
}


def fitted(**changes: object) -> Device:
    return board(kernels=[FACTS | changes])


def test_parameters_are_coded_and_decoded() -> None:
    assert decode(encode(**CURVE)) == pytest.approx(CURVE)


def test_large_products_run_at_the_efficiency_that_was_fitted() -> None:
    plain = fitted(wide_loss=0, large_loss=0)
    size = 64 * 256  # whole waves
    one, two = (gemm_latency(plain, "fp16", s, s, s).mean for s in (size, 2 * size))
    assert two / one == pytest.approx(8, rel=0.02)
    assert 80 < 2e-6 * size**3 / one < 95  # tiles that take alike are a little faster together


def test_an_empty_kernel_takes_its_launch() -> None:
    assert gemm_latency(fitted(), "fp16", 1, 1, 1).mean == pytest.approx(5, abs=0.5)


def test_a_tile_more_than_fits_costs_a_wave() -> None:
    plain = fitted(power=8.0, stream=50.0, wide_loss=0, large_loss=0)
    full, more = (
        gemm_latency(plain, "fp16", rows, 128 * 64, 8192).mean for rows in (128 * 16, 128 * 16 + 1)
    )
    assert more > 1.02 * full


def test_what_the_curve_leaves_is_added_inside_the_measured_sizes_only() -> None:
    curve, more = fitted(), fitted(residual=LEFT)
    for size in (512, 1024 * 2):
        plain = gemm_latency(curve, "fp16", 256, size, size)
        with_residual = gemm_latency(more, "fp16", 256, size, size)
        ratio = with_residual.mean / plain.mean
        if size < 1024:
            assert ratio == pytest.approx(1)
        else:
            assert 1.02 < ratio < 1.105
    at = (
        gemm_latency(more, "fp16", 256, 1024, 1024).mean
        / gemm_latency(curve, "fp16", 256, 1024, 1024).mean
    )
    assert at == pytest.approx(np.exp(0.09), rel=0.02)


def test_a_residual_is_bounded() -> None:
    wild = fitted(residual={"1024 1024": "64 5000, 256 5000"})
    curve = gemm_latency(fitted(), "fp16", 64, 1024, 1024).mean
    assert gemm_latency(wild, "fp16", 64, 1024, 1024).mean == pytest.approx(np.exp(0.7) * curve)


def test_errors_grow_away_from_what_was_measured_and_extrapolation_is_marked() -> None:
    device = fitted(residual=LEFT)
    near = gemm_latency(device, "fp16", 256, 1024, 1024)
    far = gemm_latency(device, "fp16", 256, 2**17, 2**17)
    assert near.stderr / near.mean < 0.08
    assert far.stderr / far.mean > 0.2
    gemms = [conv("c", side, 1024, 1024, 1).gemms[0] for side in (16, 64)]
    sizes = [gemm.m for gemm in gemms]
    found = latencies(
        device,
        find_scheme("fp16"),
        collect(gemms, sizes, sizes),
        out=find_scheme("fp16").activation,
    )
    assert sizes == [256, 4096]
    assert found.extrapolated.tolist() == [False, True]


def test_weights_of_few_bits_help_where_weights_are_what_moves() -> None:
    device = fitted()
    few = [gemm_latency(device, scheme, 1, 8192, 8192) for scheme in ("fp16", "w4a16")]
    assert few[1].mean < 0.5 * few[0].mean
    assert few[1].stderr / few[1].mean > few[0].stderr / few[0].mean
    many = [gemm_latency(device, scheme, 8192, 8192, 8192).mean for scheme in ("fp16", "w4a16")]
    assert many[1] == pytest.approx(many[0], rel=0.02)


def test_a_format_that_was_not_fitted_keeps_the_roofline() -> None:
    device, plain = fitted(), board(relative_error=0.4)
    assert gemm_latency(device, "fp8", 64, 512, 512).mean == (
        gemm_latency(plain, "fp8", 64, 512, 512).mean
    )


def test_batched_products_fill_the_device_together() -> None:
    one = collect([conv("c", 8, 64, 64, 1).gemms[0]], [4096], [4096])
    gemm = conv("c", 8, 64, 64, 1).gemms[0]
    from dataclasses import replace

    many = collect([replace(gemm, calls=16)], [16 * 4096], [16 * 4096])
    fp16 = find_scheme("fp16")
    single, batched = (
        float(latencies(fitted(), fp16, x, out=fp16.activation).mean[0]) for x in (one, many)
    )
    assert single < batched < 4 * single


def test_a_depthwise_layer_is_bound_by_its_bytes() -> None:
    layer = conv("dw", 112, 96, 96, 3, groups=96)
    product = collect([layer.gemms[0]], [layer.input_elements], [layer.output_elements])
    fp16 = find_scheme("fp16")
    found = latencies(fitted(), fp16, product, out=fp16.activation)
    moved = 2 * (layer.input_elements + layer.output_elements) / 1e6
    assert moved < float(found.mean[0]) < 5 + 2 * moved
    assert found.extrapolated[0]


@settings(max_examples=30)
@given(m=st.integers(1, 9000), n=st.integers(1, 9000), k=st.integers(1, 9000))
def test_arrays_equal_single_kernels(m: int, n: int, k: int) -> None:
    device = fitted(residual=LEFT)
    sizes = np.array([[64, 1024, 1024], [m, n, k], [5, 7, 11]])
    many = gemm_latency(device, "fp16", *sizes.T)
    one = gemm_latency(device, "fp16", m, n, k)
    assert np.asarray(many.mean)[1] == pytest.approx(one.mean)
    assert np.asarray(many.stderr)[1] == pytest.approx(one.stderr)


def test_residuals_are_written_as_they_are_read() -> None:
    points = [(64, 128, 256, -12), (128, 128, 256, 7), (1, 2, 3, 0)]
    assert sorted(residual_points(residual_lines(points))) == sorted(points)
    with pytest.raises(
        ValueError, match=r'must read like "2048 4096" = "64 -12, 128 7", got \'1 2 3\''
    ):
        residual_points({"1 2 3": "4 5"})
    with pytest.raises(ValueError, match="sizes of residuals must be positive"):
        residual_points({"0 2": "4 5"})


def test_nvfp4_stays_weight_only_on_hopper() -> None:
    with pytest.raises(DeviceError, match="no nvfp4 multipliers"):
        gemm_latency("h100_pcie_80gb", "nvfp4", 64, 4096, 4096)
    weight_only = gemm_latency("h100_pcie_80gb", "nvfp4a16", 64, 4096, 4096)
    assert weight_only.mean > 0
