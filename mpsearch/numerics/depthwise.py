"""Depthwise convolutions whose weights get gradients: oneDNN's own take several times a forward on the CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpsearch.numerics import dispatch


def is_depthwise(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether :func:`convolve_depthwise` takes these: one channel a group, a gradient for ``weight``, fp32 on the CPU."""
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and x.ndim == 4
        and groups == x.shape[1] == weight.shape[0]
        and weight.shape[1] == 1
        and dispatch.can_run(x)
        and dispatch.can_run(weight)
    )


def convolve_depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Return the convolution of ``x`` [N, C, H, W] with ``weight`` [C, 1, kh, kw], differentiable in all three.

    Args:
        x: fp32 on the CPU.
        weight: One kernel a channel.
        bias: [C] or None.
        stride: Of both axes.
        pads: Zeros on both sides of each axis.
        dilation: Of both axes.
    """
    result: Tensor = _Depthwise.apply(x, weight, bias, tuple(stride), tuple(pads), tuple(dilation))
    return result


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        pads: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.where = stride, pads, dilation
        return torch.conv2d(x, weight, bias, stride, pads, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, pads, dilation = ctx.where
        gradient = grads[0].contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, stride, pads, dilation,
                False, [0, 0], len(weight), [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            of_weight = dispatch.depthwise_gradient(
                x, gradient, tuple(weight.shape[2:]), stride, pads, dilation
            )
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None
