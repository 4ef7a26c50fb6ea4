"""Gradients through rounding: straight-through, and the learned step of LSQ."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from mpsearch.formats import Format
from mpsearch.numerics import dispatch
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


@dataclass(frozen=True, slots=True, eq=False)
class LearnedRange:
    """A static range of a whole tensor whose step is learned, in the place of a calibrated one.

    Attributes:
        step: 0-d fp32 > 0, what one unit of the format is worth.
        by_clip: Whether only what is cut off moves it, as PACT's clip (arXiv 1805.06085); else rounding does too, as in LSQ.
    """

    step: Tensor
    by_clip: bool = False


def quantize_learned(x: Tensor, step: Tensor, format: Format, *, by_clip: bool = False) -> Tensor:
    """Quantise with a step that is learned: LSQ, arXiv 1902.08153.

    The step's gradient is ``round(x/s) - x/s`` inside the range (0 where ``by_clip``) and ± the maximum outside, scaled by
    ``1 / sqrt(numel * max)``; the input's is 1 inside and 0 outside.

    Args:
        x: fp32 of any shape.
        step: fp32 > 0, broadcastable against ``x``: one for the tensor, or one a channel.
        format: Integer or narrow float format.
        by_clip: Whether only what is cut off moves the step.

    Returns:
        fp32, shape of ``x``, differentiable in ``x`` and ``step``.
    """
    result: Tensor = _LearnedStep.apply(x, step, format, by_clip)
    return result


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, format: Format, by_clip: bool) -> Tensor:
        if step.numel() == 1 and dispatch.can_run(x):
            quantized = dispatch.round_flat(x, float(step), find_grid(format))[0]
        else:
            quantized = quantize_to_steps(x, step, find_grid(format))
        ctx.save_for_backward(x, quantized, step)
        ctx.limit, ctx.by_clip = largest_rounded(format), by_clip
        ctx.scale = 1 / sqrt(x.numel() / max(step.numel(), 1) * format.max_value)
        return quantized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, quantized, step = ctx.saved_tensors
        share = 0.0 if ctx.by_clip else 1.0
        if step.numel() == 1 and dispatch.can_run(x) and dispatch.can_run(grads[0]):
            limit = float(step) * ctx.limit
            passed, moved = dispatch.clip_gradient(x, quantized, grads[0], limit, share)
            return passed, (moved / step * ctx.scale).to(step.dtype), None, None
        inside = x.abs() < step * ctx.limit
        slope = torch.where(inside, (quantized - x) * share, quantized)
        total = (grads[0] * slope).sum_to_size(step.shape)
        return grads[0] * inside, total / step * ctx.scale, None, None


def first_step(x: Tensor, format: Format) -> Tensor:
    """Return the 0-d step that LSQ starts from: ``2 * mean(|x|) / sqrt(max)``."""
    return 2 * x.detach().abs().mean() / sqrt(format.max_value)
