"""A weight rounded again at the scales that it was stored with: values, and gradients of the surrogate."""

import pytest
import torch
from torch import Tensor

from mpsearch.formats import find_format
from mpsearch.numerics.quantize import quantize_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.requantize import (
    requantize,
    rescale,
    simulate_requantized,
    snap_scales,
)
from mpsearch.schemes import SCHEMES, Spec

SPECS = {
    "int8": SCHEMES["int8"].weight,
    "fp8": SCHEMES["fp8"].weight,
    "nvfp4": SCHEMES["nvfp4"].weight,
    "mxfp4": SCHEMES["mxfp4"].weight,
    "int4 groups": Spec("int4", "group", block_shape=(1, 8), scale_format="fp16"),
    "asymmetric": Spec("int4", "channel", symmetric=False),
    "fp16": SCHEMES["fp16"].weight,
}

LIMITS = {"int8": 127.5, "fp8": 464, "nvfp4": 7, "int4 groups": 7.5}
"""Half a unit above the largest code."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored(name: str, sparsity: str | None = None) -> tuple[Tensor, QuantizedTensor]:
    w = randn(6, 32, 3, 3)
    return w, quantize_weight(
        w, SPECS[name], reduction_axis=1, channel_axes=(0,), sparsity=sparsity
    )


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("sparsity", [None, "2:4"])
def test_the_weight_itself_is_stored_as_it_was(name: str, sparsity: str | None) -> None:
    w, like = stored(name, sparsity)
    again = requantize(w, like)
    assert torch.equal(again.codes, like.codes)
    assert torch.equal(simulate_requantized(w, like), like.dequantize())
    assert torch.equal(requantize(like.dequantize(), like).codes, like.codes)


@pytest.mark.parametrize("name", SPECS)
def test_another_weight_takes_the_nearest_codes_at_the_old_scales(name: str) -> None:
    _, like = stored(name, "2:4")
    other = requantize(2 * randn(6, 32, 3, 3, seed=1), like)
    assert other.scales is like.scales
    assert like.mask is not None
    pruned = ~like.layout.from_rows(like.mask)
    assert bool((other.dequantize()[pruned] == 0).all())
    top = find_format(like.spec.format).max_value
    assert float(other.codes.abs().max()) <= top + 1


@pytest.mark.parametrize("name", SPECS)
def test_the_gradient_of_values_is_that_of_the_surrogate(name: str) -> None:
    """Inside the range the surrogate is ``w + what rounding adds``, which is fixed; outside it is constant."""
    _, like = stored(name, "2:4")
    w = (1.5 * randn(6, 32, 3, 3, seed=1)).requires_grad_()
    weights = randn(6, 32, 3, 3, seed=2)
    rounded = simulate_requantized(w, like)
    (rounded * weights).sum().backward()
    assert w.grad is not None
    assert like.mask is not None
    kept = like.layout.from_rows(like.mask)
    inside = torch.ones_like(kept)
    if like.scales is not None:  # half a unit beyond the largest code
        one = torch.ones(like.codes.shape)
        step = QuantizedTensor(like.spec, like.layout, one, like.scales, None, like.tensor_scale)
        unit, element = step.dequantize(), like.spec.element
        if like.zeros is None:
            limit = {"int": 0.5}.get(
                element.kind, 2.0 ** (element.max_exponent - element.mantissa_bits - 1)
            )
            inside = w.detach().abs() < unit * (element.max_value + limit)
        else:
            zero = QuantizedTensor(like.spec, like.layout, like.zeros.expand(one.shape) * 1)
            code = (w.detach() / unit).round() + zero.dequantize()
            inside = (code >= -element.max_value - 1) & (code <= element.max_value)
    assert torch.equal(w.grad, weights * kept * inside)
    assert torch.equal(rounded.detach(), requantize(w, like).dequantize())


@pytest.mark.parametrize("name", ["int8", "fp8", "nvfp4", "int4 groups"])
def test_the_gradient_of_scales_is_that_of_the_surrogate(name: str) -> None:
    """LSQ's surrogate is ``s q(w / s)`` with q(v) = v + r inside, r fixed, and the largest code outside."""
    _, like = stored(name)
    assert like.scales is not None
    w, weights = 1.2 * randn(6, 32, 3, 3, seed=1), randn(6, 32, 3, 3, seed=2)
    scales = like.scales.clone().requires_grad_()
    (simulate_requantized(w, like, scales) * weights).sum().backward()
    assert scales.grad is not None
    codes = requantize(w, like).codes.double()
    rows = like.layout.to_rows(w).double()
    expand = QuantizedTensor(like.spec, like.layout, torch.ones_like(like.codes), None)
    g = like.tensor_scale if like.spec.tensor_scale else 1.0

    def surrogate(s: Tensor) -> Tensor:
        R, P, C = codes.shape
        width = C if like.spec.block_shape is None else min(like.spec.block_shape[1], C)
        per = (s * g).repeat_interleave(width, 2)[:, :, :C].expand(R, P, C)
        start = (like.scales.double() * g).repeat_interleave(width, 2)[:, :, :C].expand(R, P, C)
        outside = (rows / start).abs() > LIMITS[name]
        residual = codes - rows / start
        return torch.where(outside, codes * per, rows + residual * per)

    weight_rows = expand.layout.to_rows(weights).double()
    for index in [(0, 0, 0), (3, 0, 0)]:
        h = like.scales.double()[index] * 1e-6
        up, down = like.scales.double().clone(), like.scales.double().clone()
        up[index] += h
        down[index] -= h
        slope = float(((surrogate(up) - surrogate(down)) * weight_rows).sum() / (2 * h))
        each = like.codes.numel() / like.scales.numel() * like.spec.element.max_value
        if like.spec.block_shape is not None:
            width = like.spec.block_shape[1]
            each = -(-like.codes.shape[2] // width) * width / like.scales.shape[2]
            each *= like.spec.element.max_value * like.codes.shape[1] / like.scales.shape[1]
        assert float(scales.grad[index]) == pytest.approx(slope / each**0.5, rel=1e-3, abs=1e-5)


def test_pruned_weights_take_part_while_a_ramp_says_so() -> None:
    w, like = stored("fp16", "2:4")
    w.requires_grad_()
    half = simulate_requantized(w, like, kept=0.5)
    half.sum().backward()
    assert like.mask is not None
    kept = like.layout.from_rows(like.mask)
    torch.testing.assert_close(half, torch.where(kept, w, 0.5 * w), rtol=1e-3, atol=1e-3)
    assert w.grad is not None
    assert torch.equal(w.grad, torch.where(kept, 1.0, 0.5))


def test_scales_stay_in_their_format() -> None:
    _, like = stored("nvfp4")
    assert like.scales is not None
    moved = (like.scales * 1.03).requires_grad_()
    snapped = snap_scales(moved, like)
    assert torch.equal(snapped.detach(), moved.detach().to(torch.float8_e4m3fn).to(torch.float32))
    snapped.sum().backward()
    assert moved.grad is not None
    assert bool((moved.grad == 1).all())


@pytest.mark.parametrize("sparsity", [None, "2:4"])
def test_at_its_own_scale_a_weight_is_stored_as_it_was(sparsity: str | None) -> None:
    for name in ("nvfp4", "fp8 per tensor"):
        w = randn(6, 32)
        spec = SPECS.get(name, SCHEMES["fp8_tensor"].weight)
        plain = quantize_weight(w, spec, reduction_axis=1, channel_axes=(0,), sparsity=sparsity)
        assert plain.scales is not None
        own = plain.tensor_scale if spec.tensor_scale else float(plain.scales)
        assert rescale(w, plain, own).is_same(plain)


def test_a_part_at_the_scale_of_the_whole_is_that_part_of_the_whole() -> None:
    both = torch.cat([randn(4, 32), 3 * randn(4, 32, seed=1)])
    for spec in (SPECS["nvfp4"], SCHEMES["fp8_tensor"].weight):
        whole = quantize_weight(both, spec, reduction_axis=1, channel_axes=(0,))
        part = quantize_weight(both[:4], spec, reduction_axis=1, channel_axes=(0,))
        assert whole.scales is not None
        shared = whole.tensor_scale if spec.tensor_scale else float(whole.scales)
        found = rescale(both[:4], part, shared)
        assert torch.equal(found.dequantize(), whole.dequantize()[:4])
        assert not torch.equal(part.dequantize(), found.dequantize())
