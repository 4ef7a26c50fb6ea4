"""Specs that contradict themselves are refused; every stored bit is counted."""

from typing import Any

import numpy as np
import pytest

from mpsearch.errors import SchemeError, UnknownNameError
from mpsearch.schemes import (
    SCHEMES,
    Scheme,
    Spec,
    count_scales,
    find_scheme,
    parse_sparsity,
    stored_bits,
    stored_bits_of_many,
)


def bits_per_element(name: str, rows: int, positions: int, channels: int) -> float:
    scheme = SCHEMES[name]
    total = stored_bits(scheme.weight, rows, positions, channels, sparsity=scheme.sparsity)
    return total / (rows * positions * channels)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp32", 32),
        ("fp16", 16),
        ("fp8", 8 + 32 / 1024),
        ("fp8_tensor", 8 + 32 / 1024**2),
        ("fp8_block", 8 + 32 / 128**2),
        ("int8", 8 + 32 / 1024),
        ("w4a16", 4.125),
        ("w4a16_g32", 4.5),
        ("nvfp4", 4.5 + 32 / 1024**2),
        ("mxfp4", 4.25),
        ("mxfp6", 6.25),
        ("mxfp8", 8.25),
        ("fp4", 4 + 8 / 1024**2),
        ("fp16_2of4", 16 * 0.5625),
        ("fp8_2of4", 8 * 0.625 + 32 / 1024),
        ("nvfp4_2of4", 4 * 0.75 + 0.5 + 32 / 1024**2),
        ("nvfp4_4of8", 8 * 0.375 + 32 / 1024**2),
    ],
)
def test_stored_bits_are_the_published_ones(name: str, bits: float) -> None:
    assert bits_per_element(name, 1024, 1, 1024) == bits


def test_short_blocks_have_a_scale_of_their_own() -> None:
    assert stored_bits(SCHEMES["nvfp4"].weight, 4, 1, 17) == 4 * (17 * 4 + 2 * 8) + 32
    assert stored_bits(SCHEMES["mxfp4"].weight, 4, 1, 33) == 4 * (33 * 4 + 2 * 8)
    assert stored_bits(SCHEMES["fp8_block"].weight, 129, 1, 129) == 129**2 * 8 + 4 * 32


def test_what_is_packed_ends_with_a_whole_byte() -> None:
    """Three codes of four bits behind whole blocks; a code of 3 bits begins a word of three bytes."""
    assert stored_bits(SCHEMES["mxfp4"].weight, 3, 1, 33) == 3 * (32 * 4 + 2 * 8) + 16
    assert stored_bits(Spec("int3", "channel"), 1, 1, 9) == 2 * 24 + 32


def test_patterns_that_blocks_cut_are_stored_dense() -> None:
    spec = Spec("int4", "group", block_shape=(1, 6), scale_format="fp16")
    dense = stored_bits(spec, 2, 1, 24)
    assert stored_bits(spec, 2, 1, 24, sparsity="2:4") == dense
    whole = Spec("int4", "group", block_shape=(1, 8), scale_format="fp16")
    assert stored_bits(whole, 2, 1, 24, sparsity="2:4") == 2 * (24 * 2 + 12 * 2 + 3 * 16)


def test_blocks_never_cross_a_kernel_position() -> None:
    assert count_scales(SCHEMES["nvfp4"].weight, 24, 9, 20) == 24 * 9 * 2
    assert bits_per_element("nvfp4", 24, 9, 1) == 12 + 32 / (24 * 9)  # depthwise


def test_zero_points_are_counted() -> None:
    spec = Spec("int4", "group", block_shape=(1, 32), scale_format="fp16", symmetric=False)
    assert stored_bits(spec, 2, 1, 64) == 2 * (64 * 4 + 2 * (16 + 4))


def test_sparse_groups_must_divide_the_channels() -> None:
    with pytest.raises(SchemeError, match=r"`channels % 4 == 0` must hold for 2:4, got 6"):
        stored_bits(SCHEMES["fp8"].weight, 2, 1, 6, sparsity="2:4")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "e2m1", "granularity": "block"}, "`block_shape` must be given exactly for"),
        ({"format": "e4m3", "block_shape": (1, 16)}, "`block_shape` must be given exactly for"),
        ({"format": "e4m3", "granularity": "block", "block_shape": (0, 16)}, "positive sizes"),
        ({"format": "int8", "scale_format": None}, "`scale_format` must be given for int8"),
        ({"format": "fp16", "granularity": "channel", "scale_format": None}, "must be given"),
        ({"format": "fp16"}, "plain casts with scale_format=None"),
        ({"format": "e8m0"}, "a narrow float or an integer can have scales"),
        ({"format": "e4m3", "scale_format": "int8"}, "a narrow float or an integer can have"),
        ({"format": "e2m1", "tensor_scale": True}, "`tensor_scale` needs blocks with e4m3 scales"),
        ({"format": "e4m3", "symmetric": False}, "only integers with float scales"),
        ({"format": "int8", "symmetric": False, "scale_format": "e8m0"}, "only integers with"),
        ({"format": "e4m3", "block_scale": "mse"}, "needs blocks of a float format"),
        ({"format": "e4m3", "granularity": "row"}, "`granularity` must be one of tensor, channel"),
        ({"format": "e4m3", "estimator": "best"}, "`estimator` must be one of amax, mse"),
        ({"format": "e4m3", "range": "live"}, "`range` must be one of static, dynamic"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        Spec(**fields)


def test_a_scheme_that_contradicts_itself_is_refused() -> None:
    weight = Spec("e4m3", "channel")
    with pytest.raises(SchemeError, match="activations of 'x' must be per tensor"):
        Scheme("x", weight, weight)
    with pytest.raises(SchemeError, match="weights of 'x' must be per tensor"):
        Scheme("x", Spec("e4m3", "token", "dynamic"), Spec("e4m3"))
    with pytest.raises(SchemeError, match="`recovery` is for sparse schemes, but 'x' is dense"):
        Scheme("x", weight, Spec("e4m3"), recovery="obs")


@pytest.mark.parametrize("pattern", ["2:4:8", "4:2", "0:4", "4:4", "half", "1:4_paired"])
def test_an_unknown_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(SchemeError, match=pattern):
        parse_sparsity(pattern)


def test_rates_are_those_of_the_wider_operand() -> None:
    rates = {name: SCHEMES[name].rate for name in ("nvfp4", "nvfp4a16", "fp8", "w4a16", "int8")}
    assert rates == {
        "nvfp4": "fp4",
        "nvfp4a16": "fp16",
        "fp8": "fp8",
        "w4a16": "fp16",
        "int8": "int8",
    }


def test_an_unknown_scheme_lists_the_choices() -> None:
    with pytest.raises(UnknownNameError, match=r"one of fp32, .*nvfp4.*; got 'fp5'"):
        find_scheme("fp5")


@pytest.mark.parametrize(
    "name", ["fp16", "fp8", "w4a16", "nvfp4", "mxfp6", "int8_2of4", "nvfp4_4of8"]
)
def test_bits_of_many_tensors_are_those_of_each(name: str) -> None:
    scheme = find_scheme(name)
    sizes = [(1, 1, 8), (7, 9, 24), (128, 1, 4096), (3, 25, 1000)]
    rows, positions, channels = np.array(sizes).T
    many = stored_bits_of_many(scheme.weight, rows, positions, channels, sparsity=scheme.sparsity)
    each = [stored_bits(scheme.weight, *size, sparsity=scheme.sparsity) for size in sizes]
    assert np.broadcast_to(many, len(sizes)).tolist() == each
