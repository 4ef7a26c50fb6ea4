"""A weight that changes, rounded again at the scales and with the mask that it was stored with."""

from dataclasses import replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from mpsearch.formats import find_format
from mpsearch.numerics.grids import as_float32, round_plain
from mpsearch.numerics.quantized import QuantizedTensor, drop_tile_axes
from mpsearch.numerics.scales import quantize_affine, round_affine, round_to_steps, steps_of
from mpsearch.numerics.straight_through import largest_rounded, pass_straight
from mpsearch.numerics.tiles import TILE_AXES, cut_tiles, find_scales, join_tiles, spec_grid


def requantize(values: Tensor, like: QuantizedTensor) -> QuantizedTensor:
    """Return ``values`` (shape of the tensor that ``like`` stores) at its scales, zero points and mask."""
    spec, layout = like.spec, like.layout
    rows = layout.to_rows(values.detach())
    if like.mask is not None:
        rows = torch.where(like.mask, rows, 0.0)
    if like.scales is None:
        return replace(like, codes=round_plain(rows, spec.element, subnormals=spec.subnormals))
    tiles = cut_tiles(rows, spec)
    steps = steps_of(_spread(like.scales), spec, like.tensor_scale)
    if like.zeros is None:
        codes = round_to_steps(tiles, steps, spec_grid(spec))
    else:
        codes = round_affine(tiles, steps, _spread(like.zeros), spec)[0]
    shape = layout.rows, layout.positions, layout.channels
    return replace(like, codes=join_tiles(codes, shape).contiguous())


def rescale(values: Tensor, like: QuantizedTensor, scale: float) -> QuantizedTensor:
    """Return ``values`` stored like another tensor, but at a given scale of the whole tensor.

    Args:
        values: Of the shape of the tensor that ``like`` stores.
        like: Of a symmetric spec with one scale a tensor, or with blocks whose scales are relative to one.
        scale: The scale of the whole tensor; those of blocks are chosen anew beside it.
    """
    values = as_float32(values.detach())
    if not like.spec.tensor_scale:
        return requantize(values, replace(like, scales=torch.full((1, 1, 1), scale)))
    rows = like.layout.to_rows(values)
    if like.mask is not None:
        rows = torch.where(like.mask, rows, 0.0)
    scales = drop_tile_axes(find_scales(cut_tiles(rows, like.spec), like.spec, scale))
    return requantize(values, replace(like, scales=scales, tensor_scale=scale))


def simulate_requantized(
    values: Tensor,
    like: QuantizedTensor,
    scales: Tensor | None = None,
    kept: float = 0.0,
    *,
    revives: bool = False,
) -> Tensor:
    """Return ``requantize(values, like).dequantize()``, differentiable in ``values`` and ``scales``.

    Values get the gradient straight through, but for those that the format's maximum cuts off; pruned ones get
    the share ``kept`` of it. Scales get that of LSQ (arXiv 1902.08153), scaled by ``1 / sqrt(elements * max)``.

    Args:
        values: fp32, of the shape of the tensor that ``like`` stores.
        like: Says spec, layout, scales, zero points and mask.
        scales: [A, P, B] in the place of its own, exact in the scale format; None: its own.
        kept: What pruned elements are multiplied with: 0 prunes them, more does so in part.
        revives: Whether pruned elements get the whole gradient, so that another mask may keep them (arXiv 2102.04010).
    """
    spec, layout = like.spec, like.layout
    rows = layout.to_rows(values)
    if like.mask is not None:
        pruned = torch.where(like.mask, rows, rows * kept if kept else 0.0)
        rows = pass_straight(rows, pruned.detach(), None) if revives else pruned
    if like.scales is None:
        rounded = round_plain(rows.detach(), spec.element, subnormals=spec.subnormals)
        return layout.from_rows(pass_straight(rows, rounded, None))
    own = like.scales if scales is None else scales
    steps = steps_of(_spread(own), spec, like.tensor_scale)
    tiles: Tensor = _AtSteps.apply(cut_tiles(rows, spec), steps, like)
    shape = layout.rows, layout.positions, layout.channels
    return layout.from_rows(join_tiles(tiles, shape))


def snap_scales(scales: Tensor, like: QuantizedTensor) -> Tensor:
    """Return positive ``scales`` as the scale format of ``like`` holds them, with the gradient straight through."""
    format = find_format(str(like.spec.scale_format))
    if format.name == "fp32":
        return scales
    return pass_straight(scales, round_plain(scales.detach(), format), None)


class _AtSteps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tiles: Tensor, steps: Tensor, like: QuantizedTensor) -> Tensor:
        spec = like.spec
        if like.zeros is None:
            rounded = round_to_steps(tiles, steps, spec_grid(spec)).mul_(steps)
            inside = tiles.abs() < steps * largest_rounded(spec.element)
        else:
            rounded, inside = quantize_affine(tiles, steps, _spread(like.zeros), spec)
        learned = ctx.needs_input_grad[1]
        ctx.save_for_backward(inside, steps, *((tiles, rounded) if learned else ()))
        ctx.top = spec.element.max_value
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        inside, steps, *more = ctx.saved_tensors
        step_grad = None
        if more:
            tiles, rounded = more
            slope = rounded - torch.where(inside, tiles, 0.0)  # times the step
            total = (grads[0] * slope).sum(TILE_AXES, keepdim=True)
            each = tiles.numel() / steps.numel() * ctx.top
            step_grad = torch.where(steps == 0, 0.0, total / (steps * sqrt(each)))
        return grads[0] * inside, step_grad, None


def _spread(per_tile: Tensor) -> Tensor:
    return per_tile[:, None, :, :, None]
