"""What holds of every format, whatever the numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from mpsearch.formats import FORMATS, find_format
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.quantize import fake_quantize, find_spec
from mpsearch.numerics.ranges import make_range

ELEMENTS = [name for name in FORMATS if name != "e8m0"]
BLOCKS = {"nvfp4": 16, "mxfp4": 32, "mxfp6": 32, "mxfp6_e3m2": 32, "mxfp8": 32, "mxfp8_e5m2": 32}
GROUPS = {"int4_g32": 32, "int8_g64": 64}
SCALED = ["e4m3", "e5m2", "int8", "int4", "e2m1"]
EVERY = [*BLOCKS, *GROUPS, *SCALED, "fp4"]

STEADY = settings(deadline=None, derandomize=True, max_examples=30, database=None)

any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Magnitudes that no scale of any format underflows or saturates on.
tame_float = st.floats(0.0625, 2.0, width=32).flatmap(lambda v: st.sampled_from([v, -v]))


def vectors(elements: st.SearchStrategy[float], size: int = 96) -> st.SearchStrategy[Tensor]:
    return arrays(np.float32, size, elements=elements, fill=elements).map(torch.from_numpy)


def tops(x: Tensor, name: str) -> Tensor:
    """Largest magnitude of each block, spread over its elements."""
    size = (BLOCKS | GROUPS).get(name, x.numel())
    return torch.cat([part.abs().amax().expand(len(part)) for part in x.split(size)])


@pytest.mark.parametrize("name", ELEMENTS)
@STEADY
@given(x=vectors(any_float))
def test_elements_are_idempotent_odd_and_monotone(name: str, x: Tensor) -> None:
    fmt = find_format(name)
    rounded = round_elements(x, fmt)
    assert torch.equal(round_elements(rounded, fmt), rounded)
    assert torch.equal(round_elements(-x, fmt), -rounded)
    ordered = round_elements(x.sort().values, fmt)
    assert bool((ordered[1:] >= ordered[:-1]).all())


@pytest.mark.parametrize("name", ELEMENTS)
@STEADY
@given(x=vectors(any_float))
def test_elements_are_within_half_a_unit_in_the_last_place(name: str, x: Tensor) -> None:
    fmt = find_format(name)
    inside = x[x.abs() <= fmt.max_value].double()
    error = (round_elements(inside.float(), fmt).double() - inside).abs()
    binade = torch.floor(torch.log2(inside.abs().clamp(min=fmt.min_normal)))
    unit = torch.exp2(binade - fmt.mantissa_bits) if fmt.kind == "float" else torch.tensor(1.0)
    assert bool((error <= unit / 2).all())


@pytest.mark.parametrize("name", ELEMENTS)
@STEADY
@given(x=vectors(any_float))
def test_elements_never_exceed_the_maximum_but_as_inf(name: str, x: Tensor) -> None:
    fmt = find_format(name)
    rounded = round_elements(x, fmt)
    finite = rounded[rounded.isfinite()]
    assert fmt.overflow == "inf" or len(finite) == len(x)
    assert bool((finite.abs() <= fmt.max_value).all())


@pytest.mark.parametrize("name", EVERY)
@STEADY
@given(x=vectors(any_float))
def test_quantisation_is_odd(name: str, x: Tensor) -> None:
    assert torch.equal(fake_quantize(-x, name), -fake_quantize(x, name))


@pytest.mark.parametrize("name", [*BLOCKS, *GROUPS])
@STEADY
@given(x=vectors(any_float))
def test_quantisation_is_monotone_inside_a_block(name: str, x: Tensor) -> None:
    block = fake_quantize(x[: (BLOCKS | GROUPS)[name]].sort().values, name)
    assert bool((block[1:] >= block[:-1]).all())


@pytest.mark.parametrize("name", EVERY)
@STEADY
@given(x=vectors(any_float))
def test_a_block_stays_below_its_formats_maximum(name: str, x: Tensor) -> None:
    """Its largest magnitude grows by no more than the rounding of its scale allows."""
    quantized = fake_quantize(x, name)
    assert bool(quantized.isfinite().all())
    growth = {"nvfp4": 1 + 2**-4, "int4_g32": 1 + 2**-10, "int8_g64": 1 + 2**-10, "fp4": 4 / 3}
    floor = {"nvfp4": float(x.abs().amax()) * 2**-18, "int4_g32": 1e-6, "int8_g64": 1e-5}
    mx = 6 / 5 if name in BLOCKS and name != "nvfp4" else 1 + 2**-20
    bound = tops(x, name) * growth.get(name, mx) + floor.get(name, 2.0**-120)
    assert bool((quantized.abs() <= bound).all())


@pytest.mark.parametrize("name", [name for name in EVERY if name != "fp4"])
@STEADY
@given(x=vectors(tame_float))
def test_errors_are_at_most_half_a_unit_in_the_last_place_of_the_block(
    name: str, x: Tensor
) -> None:
    spec = find_spec(name)
    fmt = spec.element
    half = 2.0 ** (fmt.max_exponent - fmt.mantissa_bits) / 2 if fmt.kind == "float" else 0.5
    if (
        spec.scale_format == "e8m0"
    ):  # the floored scale leaves amax below the next power of two: clipped
        step = tops(x, name) / 2.0**fmt.max_exponent
        half = max(half, 2.0 ** (fmt.max_exponent + 1) - fmt.max_value)
    else:
        step = (
            tops(x, name)
            / fmt.max_value
            * (1 + 2**-4 if spec.scale_format == "e4m3" else 1 + 2**-10)
        )
    assert bool(((fake_quantize(x, name) - x).abs() <= half * step).all())


@pytest.mark.parametrize("name", [*BLOCKS, "fp4"])
@STEADY
@given(x=vectors(tame_float))
def test_quantisation_is_idempotent_where_scales_are_powers_of_two_or_calibrated(
    name: str, x: Tensor
) -> None:
    spec = find_spec(name)
    calibrated = make_range(-2.0, 2.0, spec)
    once = fake_quantize(x, spec, range=calibrated)
    assert torch.equal(fake_quantize(once, spec, range=calibrated), once)


@pytest.mark.parametrize("name", EVERY)
@STEADY
@given(x=vectors(tame_float), power=st.integers(-10, 10))
def test_powers_of_two_pass_through(name: str, x: Tensor, power: int) -> None:
    power = abs(power) if name in GROUPS else power  # fp16 scales become subnormal below
    scaled = fake_quantize(x * 2.0**power, name)
    assert torch.equal(scaled, fake_quantize(x, name) * 2.0**power)


@pytest.mark.parametrize("name", [*BLOCKS, *GROUPS])
@STEADY
@given(x=vectors(any_float, 256), seed=st.integers(0, 100))
def test_permuted_blocks_are_permuted_and_nothing_else(name: str, x: Tensor, seed: int) -> None:
    size = (BLOCKS | GROUPS)[name]
    order = torch.randperm(256 // size, generator=torch.Generator().manual_seed(seed))
    permuted = x.view(-1, size)[order].reshape(-1)
    want = fake_quantize(x, name).view(-1, size)[order].reshape(-1)
    assert torch.equal(fake_quantize(permuted, name), want)
    inside = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    shuffled = fake_quantize(x.view(-1, size)[:, inside].reshape(-1), name)
    assert torch.equal(shuffled, fake_quantize(x, name).view(-1, size)[:, inside].reshape(-1))
