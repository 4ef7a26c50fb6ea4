"""Gradients through rounding: straight-through, and the learned step of LSQ."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from mpsearch.formats import Format
from mpsearch.numerics.grids import find_grid
from mpsearch.numerics.scales import quantize_to_steps


def pass_straight(x: Tensor, quantized: Tensor, inside: Tensor | None) -> Tensor:
    """Return ``quantized`` with the gradient of ``x`` where ``inside`` holds, and 0 elsewhere.

    Args:
        x: The tensor before quantisation.
        quantized: Its simulated value, same shape, without gradient.
        inside: Bool, same shape: where rounding is not altered by saturation; None is everywhere.
    """
    result: Tensor = _StraightThrough.apply(x, quantized, inside)
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, inside: Tensor | None) -> Tensor:
        ctx.save_for_backward(inside)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return (grads[0] if inside is None else grads[0] * inside), None, None


def pass_clipped(x: Tensor, quantized: Tensor, limit: float) -> Tensor:
    """Return ``quantized`` with the gradient of ``x`` where ``|x| < limit``, in one pass backwards, and 0 elsewhere."""
    result: Tensor = _Clipped.apply(x, quantized, limit)
    return result


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grads[0], x, -ctx.limit, ctx.limit), None, None


def largest_rounded(format: Format) -> float:
    """Return the magnitude from which on rounding would go beyond the format's maximum.

    Half a unit above the maximum: 127.5 for int8, 7 for e2m1. Below it the gradient passes, as in
    torch's own fake quantisation, whose mask looks at the rounded code.
    """
    if format.kind == "int":
        return format.max_value + 0.5
    return format.max_value + 2.0 ** (format.max_exponent - format.mantissa_bits - 1)


def quantize_learned(x: Tensor, step: Tensor, format: Format) -> Tensor:
    """Quantise with a step that is learned: LSQ, arXiv 1902.08153.

    The step's gradient is ``round(x/s) - x/s`` inside the range and ± the maximum outside, scaled by
    ``1 / sqrt(numel * max)``; the input's is 1 inside and 0 outside.

    Args:
        x: fp32 of any shape.
        step: fp32 > 0, broadcastable against ``x``: one for the tensor, or one a channel.
        format: Integer or narrow float format.

    Returns:
        fp32, shape of ``x``, differentiable in ``x`` and ``step``.
    """
    result: Tensor = _LearnedStep.apply(x, step, format)
    return result


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, format: Format) -> Tensor:
        quantized = quantize_to_steps(x, step, find_grid(format))
        scaled = x / step
        inside = scaled.abs() < largest_rounded(format)
        slope = torch.where(inside, quantized / step - scaled, scaled.sign() * format.max_value)
        ctx.save_for_backward(inside, slope)
        ctx.step_shape = step.shape
        ctx.scale = 1 / sqrt(x.numel() / max(step.numel(), 1) * format.max_value)
        return quantized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        inside, slope = ctx.saved_tensors
        step_grad = (grads[0] * slope).sum_to_size(ctx.step_shape) * ctx.scale
        return grads[0] * inside, step_grad, None


def first_step(x: Tensor, format: Format) -> Tensor:
    """Return the 0-d step that LSQ starts from: ``2 * mean(|x|) / sqrt(max)``."""
    return 2 * x.detach().abs().mean() / sqrt(format.max_value)
