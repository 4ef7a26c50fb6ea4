"""Learned rounding stays on the grid and the scales it is given, and lowers the layer's output error."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from mpsearch.deadline import deadline_in
from mpsearch.numerics.quantize import quantize_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.tiles import grid_values
from mpsearch.recovery.adaround import element_steps, learn_rounding
from mpsearch.recovery.gptq import round_in_gram
from mpsearch.recovery.obs import find_gram
from mpsearch.schemes import Scheme, Spec, find_scheme
from tests.recovery.test_gptq import LINEAR, layer

ASYMMETRIC = Scheme("int4_asymmetric", Spec("int4", "channel", symmetric=False), Spec("int8"))
SCHEMES = ("nvfp4", "mxfp4", "w4a16_g32", "fp8", "int8", "nvfp4_2of4", "int4_asymmetric")


def plain(weight: Tensor, name: str) -> QuantizedTensor:
    scheme = ASYMMETRIC if name == ASYMMETRIC.name else find_scheme(name)
    return quantize_weight(
        weight, scheme.weight, reduction_axis=1, channel_axes=(0,), sparsity=scheme.sparsity
    )


def output_error(found: QuantizedTensor, weight: Tensor, x: Tensor) -> float:
    return float(((found.dequantize() - weight).double() @ x.double().T).square().sum())


@pytest.mark.parametrize("name", SCHEMES)
def test_it_lowers_the_output_error_on_the_same_grid(name: str) -> None:
    weight, x = layer(3)
    start = plain(weight, name)
    found = learn_rounding(weight, start, find_gram(x), steps=300)
    assert output_error(found, weight, x) < 0.95 * output_error(start, weight, x)
    assert found.scales is start.scales
    assert found.mask is start.mask
    grid = grid_values(start.spec)
    assert bool(torch.isin(found.codes, grid).all())
    unit, zeros = element_steps(start)
    exact = start.layout.to_rows(weight) / torch.where(unit > 0, unit, 1.0)
    gap = (found.codes - exact - (0.0 if zeros is None else zeros)).abs()
    at = torch.searchsorted(grid, found.codes)
    wide = torch.maximum(
        grid[(at + 1).clamp(max=len(grid) - 1)] - found.codes,
        found.codes - grid[(at - 1).clamp(min=0)],
    )
    inside = (exact.abs() < grid[-1]) if zeros is None else torch.ones_like(gap, dtype=torch.bool)
    kept = inside if start.mask is None else inside & start.mask
    assert bool((gap[kept] <= wide[kept] + 1e-5).all())


def test_a_start_that_is_better_is_kept() -> None:
    weight, x = layer(4)
    start = round_in_gram(weight, find_scheme("nvfp4").weight, find_gram(x), LINEAR)
    found = learn_rounding(weight, start, find_gram(x), steps=1)
    assert output_error(found, weight, x) <= output_error(start, weight, x) * (1 + 1e-9)


def test_a_cast_and_a_deadline_leave_the_start() -> None:
    weight, x = layer(5)
    cast = quantize_weight(weight, find_scheme("fp16").weight, reduction_axis=1, channel_axes=(0,))
    assert learn_rounding(weight, cast, find_gram(x)) is cast
    start = plain(weight, "fp8")
    late = learn_rounding(weight, start, find_gram(x), deadline=deadline_in(0.0))
    assert output_error(late, weight, x) <= output_error(start, weight, x)


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        ("e4m3", ml_dtypes.float8_e4m3fn),
        ("e5m2", ml_dtypes.float8_e5m2),
        ("e2m1", ml_dtypes.float4_e2m1fn),
        ("e2m3", ml_dtypes.float6_e2m3fn),
    ],
)
def test_grids_are_the_formats_elements(format: str, dtype: type) -> None:
    bits = {"e4m3": 8, "e5m2": 8, "e2m1": 4, "e2m3": 6}[format]
    codes = np.arange(2**bits, dtype=np.uint8).view(dtype).astype(np.float64)
    want = np.unique(codes[np.isfinite(codes)])
    assert np.array_equal(grid_values(Spec(format)).numpy().astype(np.float64), want)
    assert grid_values(Spec("int8")).tolist() == list(range(-127, 128))
    assert grid_values(Spec("int4", symmetric=False)).tolist() == list(range(-8, 8))
