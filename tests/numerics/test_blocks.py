"""Block formats equal a slow reference, block by block; convolutions never cross a kernel position."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mpsearch.numerics.quantize import fake_quantize, quantize_activation, simulate_weight
from mpsearch.numerics.ranges import make_range
from mpsearch.schemes import SCHEMES, Spec
from tests.support.format_oracles import (
    TABLES,
    blocked,
    f32,
    integer_group,
    mx_block,
    nearest,
    nvfp4_block,
    nvfp4_scale,
    scaled,
)

Floats = NDArray[np.float32]
MX = {"mxfp4": "e2m1", "mxfp6": "e2m3", "mxfp6_e3m2": "e3m2", "mxfp8": "e4m3", "mxfp8_e5m2": "e5m2"}


def sample(shape: tuple[int, ...], seed: int = 0) -> Floats:
    """Values over many magnitudes with zero blocks, subnormals and exact ties among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    x *= np.exp2(rng.integers(-6, 6, (*shape[:-1], 1))).astype(np.float32)
    flat = x.reshape(-1, shape[-1])
    flat[0] = 0
    flat[1 % len(flat)] *= np.float32(1e-30)
    flat[2 % len(flat)] = np.round(flat[2 % len(flat)] * 4) / 4
    return x


def reference(x: Floats, name: str) -> Floats:
    if name == "nvfp4":
        g = nvfp4_scale(x)
        return blocked(x, 16, lambda block: nvfp4_block(block, g))
    if name in MX:
        return blocked(x, 32, lambda block: mx_block(block, MX[name]))
    group = int(name.removeprefix("int4_g"))
    return blocked(x, group, lambda block: integer_group(block, 7))


NAMES = ["nvfp4", *MX, "int4_g32", "int4_g64", "int4_g128"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [5, 16, 32, 45, 160])
def test_rows_equal_the_slow_reference(name: str, width: int) -> None:
    x = sample((6, width))
    got = fake_quantize(torch.from_numpy(x), name).numpy()
    np.testing.assert_array_equal(got, reference(x, name))


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "int4_g32"])
def test_another_axis_is_the_same_as_moving_it_last(name: str) -> None:
    x = torch.from_numpy(sample((7, 40, 3), seed=1))
    want = fake_quantize(x.movedim(1, -1).contiguous(), name).movedim(-1, 1)
    assert torch.equal(fake_quantize(x, name, axis=1), want)
    assert torch.equal(fake_quantize(x.movedim(1, -1), name), want.movedim(1, -1))


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("channels", [1, 20, 48])
def test_convolution_blocks_run_along_channels_of_one_kernel_position(
    name: str, channels: int
) -> None:
    weight = sample((5, channels, 3, 3), seed=2)
    spec = SCHEMES[name].weight
    got = simulate_weight(
        torch.from_numpy(weight), spec, reduction_axis=1, channel_axes=(0,)
    ).numpy()
    for i in range(3):
        for j in range(3):
            g = nvfp4_scale(weight)
            at = np.ascontiguousarray(weight[:, :, i, j])
            want = (
                blocked(at, 16, lambda block, g=g: nvfp4_block(block, g))
                if name == "nvfp4"
                else reference(at, name)
            )
            np.testing.assert_array_equal(got[:, :, i, j], want)


def test_activation_blocks_do_not_cross_convolution_groups() -> None:
    x = torch.from_numpy(sample((2, 40, 3, 4), seed=3))
    spec = SCHEMES["mxfp4"].activation
    got = quantize_activation(x, spec, reduction_axis=1, groups=2)
    halves = [quantize_activation(half, spec, reduction_axis=1) for half in x.split(20, dim=1)]
    assert torch.equal(got, torch.cat(halves, dim=1))


def test_transposed_convolution_weights_split_the_reduction_into_groups() -> None:
    weight = torch.from_numpy(sample((40, 6, 2, 2), seed=4))
    spec = SCHEMES["mxfp4"].weight
    got = simulate_weight(weight, spec, reduction_axis=0, channel_axes=(1,), groups=2)
    halves = [
        simulate_weight(half, spec, reduction_axis=0, channel_axes=(1,))
        for half in weight.split(20, dim=0)
    ]
    assert torch.equal(got, torch.cat(halves, dim=0))


def test_a_calibrated_tensor_scale_is_used_and_blocks_saturate() -> None:
    x = sample((4, 48), seed=5)
    spec = SCHEMES["nvfp4"].activation
    calibrated = make_range(-0.5, 0.25, spec)
    g = f32(f32(0.5) / f32(2688))
    got = quantize_activation(torch.from_numpy(x), spec, reduction_axis=-1, range=calibrated)
    want = blocked(x, 16, lambda block: nvfp4_block(block, g))
    np.testing.assert_array_equal(got.numpy(), want)
    assert got.abs().max() <= 0.5 * (1 + 2**-20)


@pytest.mark.parametrize(("fmt", "top"), [("e4m3", 448), ("int8", 127)])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_one_fp32_scale_a_tensor_or_channel(fmt: str, top: int, granularity: str) -> None:
    weight = sample((6, 5, 3, 3), seed=6)
    spec = Spec(fmt, granularity)  # type: ignore[arg-type]
    got = simulate_weight(
        torch.from_numpy(weight), spec, reduction_axis=1, channel_axes=(0,)
    ).numpy()
    rows = weight.reshape(6, -1) if granularity == "channel" else weight.reshape(1, -1)
    want = [scaled(row, f32(f32(np.abs(row).max()) / f32(top)), fmt) for row in rows]
    np.testing.assert_array_equal(got.reshape(len(rows), -1), np.stack(want))


def test_matmul_weights_have_channels_in_columns() -> None:
    weight = torch.from_numpy(sample((20, 6), seed=7))
    for name in ("fp8", "nvfp4", "w4a16"):
        spec = SCHEMES[name].weight
        got = simulate_weight(weight, spec, reduction_axis=0, channel_axes=(1,))
        want = simulate_weight(weight.T.contiguous(), spec, reduction_axis=1, channel_axes=(0,))
        assert torch.equal(got, want.T)
        assert got.is_contiguous()


def test_tokens_have_a_scale_each() -> None:
    x = torch.from_numpy(sample((2, 5, 24), seed=8))
    spec = SCHEMES["fp8_dynamic"].activation
    got = quantize_activation(x, spec, reduction_axis=-1)
    for token, want in zip(x.reshape(10, 24), got.reshape(10, 24), strict=True):
        alone = quantize_activation(token, SCHEMES["fp8"].activation, reduction_axis=-1)
        assert torch.equal(alone, want)


def test_tiles_of_rows_and_channels_share_one_scale() -> None:
    weight = sample((10, 7), seed=9)
    spec = Spec("e4m3", "block", block_shape=(4, 3))
    got = simulate_weight(torch.from_numpy(weight), spec, reduction_axis=1, channel_axes=(0,))
    for i in range(0, 10, 4):
        for j in range(0, 7, 3):
            tile = weight[i : i + 4, j : j + 3]
            step = f32(f32(np.abs(tile).max()) / f32(448))
            want = scaled(tile.reshape(-1), step, "e4m3").reshape(tile.shape)
            np.testing.assert_array_equal(got[i : i + 4, j : j + 3].numpy(), want)


@pytest.mark.parametrize(
    ("block_scale", "ratios"),
    [("four_over_six", [1, 1.5]), ("mse", [1, *(2 ** (i / 8) for i in range(-4, 7))])],
)
def test_block_scale_options_take_the_smallest_error_of_their_candidates(
    block_scale: str, ratios: list[float]
) -> None:
    x = sample((4, 32), seed=10)
    spec = Spec(
        "e2m1",
        "block",
        block_shape=(1, 16),
        scale_format="e4m3",
        tensor_scale=True,
        block_scale=block_scale,
    )  # type: ignore[arg-type]
    got = fake_quantize(torch.from_numpy(x), spec).numpy()
    g = nvfp4_scale(x)

    def best(block: Floats) -> Floats:
        amax = np.abs(block).max()
        if amax == 0:
            return block * 0
        tries = []
        for ratio in ratios:
            unit = f32(f32(amax * f32(ratio)) / f32(f32(6) * g))
            scale = f32(nearest(float(min(unit, f32(448))), TABLES["e4m3"]))
            tries.append(scaled(block, f32(scale * g), "e2m1"))
        errors = [float(((t.astype(np.float64) - block) ** 2).sum()) for t in tries]
        return tries[int(np.argmin(errors))]

    want = blocked(x, 16, best)
    error, least = ((a - x).astype(np.float64) ** 2 for a in (got, want))
    np.testing.assert_allclose(error.sum(), least.sum(), rtol=1e-6)


def test_fp4_takes_the_power_of_two_of_least_error() -> None:
    x = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    errors = {}
    for exponent in range(-12, 6):
        error = scaled(x, f32(2.0**exponent), "e2m1").astype(np.float64) - x
        errors[exponent] = float((error**2).sum())
    step = f32(2.0 ** min(errors, key=errors.__getitem__))
    got = fake_quantize(torch.from_numpy(x), "fp4").numpy()
    np.testing.assert_array_equal(got, scaled(x, step, "e2m1"))
