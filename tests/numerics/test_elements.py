"""Every element format equals ml_dtypes, numpy or bit arithmetic on every code and every tie."""

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mpsearch.errors import SchemeError
from mpsearch.formats import FORMATS, find_format, with_bias
from mpsearch.numerics.elements import round_elements
from tests.support.format_oracles import DTYPES, MAXIMA, cast

Floats = NDArray[np.float32]


def patterns_of(dtype: type) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)


def random_patterns(count: int) -> Floats:
    bits = np.random.default_rng(7).integers(0, 2**32, count, dtype=np.uint32)
    return bits.view(np.float32)


def random_values(count: int) -> Floats:
    """Values whose exponents are spread over the narrow formats' own range."""
    rng = np.random.default_rng(8)
    values = rng.standard_normal(count, dtype=np.float32)
    return values * np.exp2(rng.integers(-30, 20, count)).astype(np.float32)


def ties_of(name: str) -> Floats:
    """All codes, the midpoints between neighbours, and the fp32 numbers around each."""
    with np.errstate(invalid="ignore"):
        dtype = DTYPES[name]
        kind = np.uint16 if np.dtype(dtype).itemsize == 2 else np.uint8
        count = 2**16 if kind is np.uint16 else 2 ** FORMATS[name].bits
        codes = np.arange(count).astype(kind).view(dtype).astype(np.float32)
    codes = np.unique(codes[np.isfinite(codes)])
    middles = (codes[:-1].astype(np.float64) + codes[1:]) / 2
    exact = np.concatenate([codes, middles.astype(np.float32)])
    up, down = np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))
    return np.concatenate([exact, up, down])


def mismatches(x: Floats, name: str) -> int:
    """Count inputs whose rounded pattern differs, signs of zeros included; all NaNs are one."""
    x = x[~np.isnan(x)]
    got = round_elements(torch.from_numpy(x), find_format(name)).numpy()
    return int((got.view(np.uint32) != cast(x, name).view(np.uint32)).sum())


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("source", [ml_dtypes.bfloat16, np.float16])
def test_every_16_bit_pattern_rounds_as_ml_dtypes(name: str, source: type) -> None:
    assert mismatches(patterns_of(source), name) == 0


@pytest.mark.parametrize("name", DTYPES)
def test_every_code_tie_and_their_neighbours_round_as_ml_dtypes(name: str) -> None:
    assert mismatches(ties_of(name), name) == 0


@pytest.mark.parametrize("name", DTYPES)
def test_random_fp32_rounds_as_ml_dtypes(name: str) -> None:
    assert mismatches(random_patterns(2**18), name) == 0
    assert mismatches(random_values(2**18), name) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", DTYPES)
def test_2_to_the_24_random_fp32_round_as_ml_dtypes(name: str) -> None:
    assert mismatches(random_patterns(2**23), name) == 0
    assert mismatches(random_values(2**23), name) == 0


@pytest.mark.parametrize("name", MAXIMA)
def test_narrow_floats_saturate(name: str) -> None:
    x = torch.tensor([torch.inf, -torch.inf, 3e38, -1e9])
    top = MAXIMA[name]
    assert round_elements(x, find_format(name)).tolist() == [top, -top, top, -top]


@pytest.mark.parametrize("name", ["fp16", "bf16", "tf32"])
def test_wide_floats_overflow_to_inf(name: str) -> None:
    x = torch.tensor([3.4028235e38, -3.4028235e38, torch.inf])
    assert round_elements(x, find_format(name)).tolist() == [torch.inf, -torch.inf, torch.inf]


def test_fp16_overflows_exactly_from_the_midpoint_on() -> None:
    below = float(np.nextafter(np.float32(65520), np.float32(0)))
    rounded = round_elements(torch.tensor([65504.0, below, 65520.0]), find_format("fp16"))
    assert rounded.tolist() == [65504.0, 65504.0, torch.inf]


def test_tf32_equals_bit_arithmetic_in_integers() -> None:
    x = np.concatenate([random_patterns(2**18), patterns_of(ml_dtypes.bfloat16)])
    x = x[~np.isnan(x)]
    bits = x.view(np.uint32).astype(np.int64)
    low = bits & 0x1FFF
    kept = bits >> 13
    kept += (low > 0x1000) | ((low == 0x1000) & (kept & 1 == 1))
    got = round_elements(torch.from_numpy(x), find_format("tf32")).numpy()
    np.testing.assert_array_equal(got.view(np.uint32), (kept << 13).astype(np.uint32))


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_equal_numpy(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    halves = np.arange(-2 * top - 3, 2 * top + 4, dtype=np.float32) / 2
    x = np.concatenate([halves, random_values(2**16), patterns_of(np.float16)])
    x = x[~np.isnan(x)]
    got = round_elements(torch.from_numpy(x), find_format(f"int{bits}")).numpy()
    np.testing.assert_array_equal(got, np.clip(np.rint(x), -top, top))


def test_e8m0_equals_ml_dtypes_on_positive_values() -> None:
    x = np.abs(random_patterns(2**18))
    x = np.concatenate([x, np.abs(patterns_of(ml_dtypes.bfloat16))])
    x = x[(x > 0) & np.isfinite(x)]
    clamped = np.clip(x, 2.0**-127, 2.0**127).astype(np.float32)
    want = clamped.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    got = round_elements(torch.from_numpy(x), find_format("e8m0")).numpy()
    np.testing.assert_array_equal(got, want)


def test_e8m0_has_neither_zero_nor_sign() -> None:
    assert round_elements(torch.tensor([0.0, -1.0]), find_format("e8m0")).isnan().all()


@pytest.mark.parametrize("name", FORMATS)
def test_nan_stays_nan(name: str) -> None:
    assert round_elements(torch.tensor([torch.nan]), find_format(name)).isnan().all()


def test_bias_2_gives_max_3_normal_half_subnormal_quarter() -> None:
    fmt = with_bias(find_format("e2m1"), 2)
    assert (fmt.max_value, fmt.min_normal, fmt.min_subnormal) == (3.0, 0.5, 0.25)
    x = torch.linspace(-4, 4, 4001)
    assert round_elements(x, fmt).unique().tolist() == [
        -3, -2, -1.5, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("bias", [-3, 0, 2, 5, 9])
@pytest.mark.parametrize("name", ["e2m1", "e4m3"])
def test_another_bias_only_scales_the_values(name: str, bias: int) -> None:
    fmt = find_format(name)
    x = torch.from_numpy(random_values(4096))
    factor = 2.0 ** (fmt.bias - bias)
    want = round_elements(x / factor, fmt) * factor
    assert torch.equal(round_elements(x, with_bias(fmt, bias)), want)


@pytest.mark.parametrize("name", ["e2m1", "e4m3", "fp16", "bf16"])
def test_flushing_removes_exactly_the_subnormals(name: str) -> None:
    fmt = find_format(name)
    x = torch.from_numpy(random_values(65536)) * fmt.min_normal
    kept = round_elements(x, fmt)
    flushed = round_elements(x, fmt, subnormals=False)
    subnormal = kept.abs() < fmt.min_normal
    assert subnormal.any()
    assert torch.equal(flushed, torch.where(subnormal, 0.0, kept))


def test_shapes_and_strides_do_not_matter() -> None:
    fmt = find_format("e4m3")
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_elements(x.T, fmt), round_elements(x, fmt).T)
    assert torch.equal(round_elements(x[::2, 1::3], fmt), round_elements(x, fmt)[::2, 1::3])
    assert round_elements(torch.tensor(0.3), fmt).shape == ()
    assert round_elements(torch.empty(0, 4), fmt).shape == (0, 4)


def test_narrower_floats_are_taken_and_fp64_is_refused() -> None:
    fmt = find_format("e4m3")
    assert round_elements(torch.tensor([0.3], dtype=torch.float16), fmt).dtype == torch.float32
    with pytest.raises(SchemeError, match="float32, float16 or bfloat16"):
        round_elements(torch.tensor([0.3], dtype=torch.float64), fmt)


def test_a_bias_out_of_range_is_refused() -> None:
    with pytest.raises(SchemeError, match="2\\*\\*100"):
        with_bias(find_format("e2m1"), 500)
    with pytest.raises(SchemeError, match="at most 5 exponent bits"):
        with_bias(find_format("int4"), 3)
