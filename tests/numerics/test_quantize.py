"""Whole tensors: every name works, edges are handled, mistakes are named."""

import pytest
import torch
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError, UnknownNameError
from mpsearch.numerics.quantize import (
    fake_quantize,
    find_spec,
    quantize_activation,
    simulate_weight,
)
from mpsearch.schemes import SCHEMES, Spec

NAMES = [
    "fp32", "tf32", "bf16", "fp16", "e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "int8", "int4", "int2",
    "nvfp4", "mxfp4", "mxfp6", "mxfp6_e3m2", "mxfp8", "mxfp8_e5m2", "int4_g32", "int8_g128", "fp4",
]  # fmt: skip


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1,), (0, 5), (5, 0), (3, 0, 2), (2, 3, 4, 5, 6)])
def test_any_shape_passes_through_every_format(name: str, shape: tuple[int, ...]) -> None:
    x = randn(*shape)
    got = fake_quantize(x, name)
    assert got.shape == x.shape
    assert got.dtype == torch.float32
    assert got.is_contiguous()


@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if s.sparsity is None])
def test_every_scheme_takes_weights_and_activations_of_layers(scheme) -> None:
    linear, conv, depthwise = randn(7, 33), randn(6, 20, 3, 3), randn(6, 1, 3, 3)
    for weight in (linear, conv, depthwise, randn(5, 16, 7)):
        got = simulate_weight(weight, scheme.weight, reduction_axis=1, channel_axes=(0,))
        assert got.shape == weight.shape
        assert float((got - weight).square().mean() / weight.square().mean()) < 0.05
    for x, groups in ((randn(2, 40, 5, 5), 4), (randn(2, 6, 5, 5), 6), (randn(2, 40, 9), 1)):
        got = quantize_activation(x, scheme.activation, reduction_axis=1, groups=groups)
        assert got.shape == x.shape
        assert float((got - x).square().mean() / x.square().mean()) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_does_not_matter(name: str) -> None:
    x = randn(8, 6, 40)
    want = fake_quantize(x, name)
    for strided in (x.transpose(0, 2).contiguous().transpose(0, 2), torch.cat([x, x], 2)[..., :40]):
        assert not strided.is_contiguous()
        assert torch.equal(fake_quantize(strided, name), want)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_channels_of_zeros_stay_zeros(name: str) -> None:
    x = randn(4, 64)
    x[1], x[:, 32:48] = 0, 0
    got = fake_quantize(x, name)
    assert bool((got[x == 0] == 0).all())
    assert bool((fake_quantize(torch.zeros(4, 64), name) == 0).all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-38, 3.4e38])
def test_the_ends_of_fp32_give_no_nan_and_inf_only_where_casts_overflow(
    name: str, size: float
) -> None:
    x = torch.tensor([[size, -size, size / 2, 0.0] * 16])
    got = fake_quantize(x, name)
    assert not bool(got.isnan().any())
    assert bool(got.isfinite().all()) or (name in ("fp16", "bf16", "tf32") and size > 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_input_is_never_changed(name: str) -> None:
    x = randn(5, 48)
    before = x.clone()
    fake_quantize(x, name)
    assert torch.equal(x, before)


def test_a_range_of_none_rounds_elements_without_a_scale() -> None:
    x = torch.tensor([0.3, -5.2, 100.0])
    assert fake_quantize(x, "e2m1", range=None).tolist() == [0.5, -6, 6]
    assert fake_quantize(x, "int8", range=None).tolist() == [0, -5, 100]
    assert fake_quantize(x, "e4m3", range=None).tolist() == [0.3125, -5.0, 96.0]


def test_flushing_subnormals_loses_what_gradual_underflow_keeps() -> None:
    x = randn(100, 32)
    kept, flushed = (
        fake_quantize(x, Spec("e2m1", scale_format="e8m0", estimator="mse", subnormals=keep))
        for keep in (True, False)
    )
    errors = [float((q - x).square().mean()) for q in (kept, flushed)]
    assert errors[0] < errors[1]
    nonzero = flushed[flushed != 0].abs()
    assert float(nonzero.min()) * 6 == float(nonzero.max())


def test_nvfp4_options_lower_the_error() -> None:
    x = randn(200, 64)
    errors = {
        name: float((fake_quantize(x, SCHEMES[name].weight) - x).square().mean())
        for name in ("nvfp4", "nvfp4_four_over_six", "nvfp4_mse")
    }
    assert errors["nvfp4_mse"] < errors["nvfp4_four_over_six"] < errors["nvfp4"]


def test_mistakes_are_named() -> None:
    x = randn(4, 8)
    with pytest.raises(UnknownNameError, match=r"nvfp4.*got 'fp5'"):
        find_spec("fp5")
    with pytest.raises(SchemeError, match=r"axis 2 is missing: its shape is \(4, 8\)"):
        fake_quantize(x, "nvfp4", axis=2)
    with pytest.raises(
        SchemeError, match=r"`size % groups == 0` must hold .* size 8 with groups=3"
    ):
        quantize_activation(x, SCHEMES["nvfp4"].activation, reduction_axis=1, groups=3)
    with pytest.raises(SchemeError, match="distinct and without the reduction axis"):
        simulate_weight(x, SCHEMES["fp8"].weight, reduction_axis=1, channel_axes=(1,))
    with pytest.raises(SchemeError, match=r"must be float32.*got torch\.int64"):
        fake_quantize(torch.arange(4), "e4m3")
    x[0, 0] = torch.inf
    with pytest.raises(NumericsError, match=r"'fc1: weight' must be finite"):
        simulate_weight(
            x, SCHEMES["fp8"].weight, reduction_axis=1, channel_axes=(0,), name="fc1: weight"
        )
