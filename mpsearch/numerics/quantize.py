"""Simulated quantisation of whole tensors: fp32 in, fp32 out, exactly on the format's grid."""

import re
from dataclasses import replace

import torch
from torch import Tensor

from mpsearch.errors import UnknownNameError
from mpsearch.formats import FORMATS, find_format
from mpsearch.notations import parse_estimator
from mpsearch.numerics import dispatch
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.grids import as_float32, round_plain
from mpsearch.numerics.layout import Layout, find_layout
from mpsearch.numerics.quantized import QuantizedTensor, drop_tile_axes
from mpsearch.numerics.range import Range
from mpsearch.numerics.ranges import RangeObserver, check_finite, finite_range, make_range
from mpsearch.numerics.scales import (
    choose_affine,
    quantize_affine,
    quantize_to_steps,
    round_affine,
    round_to_steps,
    steps_of,
    tensor_scale,
)
from mpsearch.numerics.sparsity import choose_mask, prune
from mpsearch.numerics.straight_through import (
    LearnedRange,
    largest_rounded,
    pass_clipped,
    pass_straight,
    quantize_learned,
)
from mpsearch.numerics.tiles import TILE_AXES, cut_tiles, find_scales, join_tiles, spec_grid
from mpsearch.schemes import SCHEMES, Spec

_BLOCK_FORMATS = {
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "mxfp6": "mxfp6",
    "mxfp6_e3m2": "mxfp6_e3m2",
    "mxfp6_e2m3": "mxfp6",
    "mxfp8": "mxfp8",
    "mxfp8_e4m3": "mxfp8",
    "mxfp8_e5m2": "mxfp8_e5m2",
    "fp4": "fp4",
}
_SHORT = 16
"""Inner sizes below this are worth a copy to rows."""


def find_spec(format: str | Spec) -> Spec:
    """Return the spec that a format's name stands for.

    Args:
        format: An element format (one fp32 scale a tensor; fp32, tf32, bf16, fp16 are plain casts), a block
            format (``nvfp4``, ``mxfp4``, ``mxfp6``, ``mxfp8``, …), ``intN_gK`` (groups of K with fp16
            scales), ``fp4`` (one power of two a tensor), or a spec, which is returned as it is.

    Raises:
        UnknownNameError: No format has this name.
    """
    if isinstance(format, Spec):
        return format
    if format in _BLOCK_FORMATS:
        return SCHEMES[_BLOCK_FORMATS[format]].weight
    if match := re.fullmatch(r"(int[2-8])_g(\d+)", format):
        return Spec(match[1], "group", block_shape=(1, int(match[2])), scale_format="fp16")
    if format not in FORMATS:
        choices = ", ".join((*FORMATS, *_BLOCK_FORMATS, "intN_gK"))
        raise UnknownNameError(f"format must be one of {choices}; got {format!r}")
    wide = find_format(format).overflow == "inf" or format == "e8m0"
    return Spec(format, scale_format=None if wide else "fp32")


def fake_quantize(
    x: Tensor,
    format: str | Spec,
    *,
    axis: int = -1,
    range: str | Range | None = "amax",
    name: str = "tensor",
) -> Tensor:
    """Return ``x`` as ``format`` would hold it, in fp32.

    Blocks run along ``axis``; a spec per channel or token has one scale for each slice along it.
    The gradient is straight-through: 1 where saturation did not alter the rounding, 0 elsewhere.

    Args:
        x: fp32 (fp16, bf16) of any shape, contiguous or not, on any device.
        format: Name (see :func:`find_spec`) or spec.
        axis: The reduction axis.
        range: How scales are chosen from ``x`` (an estimator: ``amax``, ``mse``, ``entropy``, ``percentile:99.9``), or a
            calibrated range; None rounds elements without any scale.
        name: What an error calls the tensor.

    Returns:
        fp32 of the same shape.

    Raises:
        NumericsError: ``x`` holds NaN or Inf.
        SchemeError: The axis is missing, or the type is not a float of at most 32 bits.
        UnknownNameError: No format has this name.
    """
    spec = find_spec(format)
    if range is None:
        finite_range(as_float32(x.detach()), name)
        rounded = round_elements(x.detach(), spec.element, subnormals=spec.subnormals)
        if not x.requires_grad:
            return rounded
        return pass_straight(x, rounded, x.detach().abs() < largest_rounded(spec.element))
    layout = find_layout(tuple(x.shape), reduction_axis=axis)
    if isinstance(range, Range):
        return _quantize(x, spec, layout, range, name)
    if range != "amax":  # amax leaves a spec's own estimator
        spec = replace(spec, estimator=range)
    return _quantize(x, spec, layout, None, name)


def quantize_weight(
    weight: Tensor,
    spec: Spec,
    *,
    reduction_axis: int,
    channel_axes: tuple[int, ...],
    groups: int = 1,
    sparsity: str | None = None,
    name: str = "weight",
) -> QuantizedTensor:
    """Return a weight, pruned and then rounded, as ``spec`` stores it.

    Args:
        weight: fp32 (fp16, bf16), such as [out, in] of a Gemm (transB) with reduction axis 1 and channel
            axis 0, or [out, channels, kh, kw] of a convolution with the same axes: blocks run along
            channels and never cross a kernel position.
        spec: Weight spec of a scheme.
        reduction_axis: Axis along which blocks run.
        channel_axes: Axes that together index output channels: scales per channel are theirs.
        groups: Convolution groups that the reduction axis spans (transposed convolutions).
        sparsity: Pattern to prune to by magnitude; a weight that is pruned already stays as it is.
        name: What an error calls the weight.

    Raises:
        NumericsError: The weight holds NaN or Inf.
        SchemeError: An axis is missing, or the pattern does not divide the channels.
    """
    layout = find_layout(
        tuple(weight.shape),
        reduction_axis=reduction_axis,
        channel_axes=channel_axes,
        groups=groups,
    )
    values = as_float32(weight.detach())
    mask = None
    if sparsity is not None:
        mask = choose_mask(values, sparsity, axis=reduction_axis, groups=groups, name=name)
        values = torch.where(mask, values, 0.0)
        mask = layout.to_rows(mask)
    rows = layout.to_rows(values)
    if values.numel() == 0 or spec.is_cast:
        if values.numel():
            finite_range(values, name)
        codes = round_plain(rows, spec.element, subnormals=spec.subnormals)
        return QuantizedTensor(spec, layout, codes, sparsity=sparsity, mask=mask)
    low, high = finite_range(values, name)
    range = _observed(values, spec, name) if _needs_histogram(spec) else None
    tiles = cut_tiles(rows, spec)
    if spec.symmetric:
        scales, g = _choose_tile_scales(tiles, spec, range, max(0.0, -low, high))
        codes, zeros = round_to_steps(tiles, steps_of(scales, spec, g), spec_grid(spec)), None
    else:
        scales, zeros = _choose_tile_affine(tiles, spec, range)
        codes, g = round_affine(tiles, scales, zeros, spec)[0], 1.0
    return QuantizedTensor(
        spec,
        layout,
        join_tiles(codes, (layout.rows, layout.positions, layout.channels)).contiguous(),
        drop_tile_axes(scales),
        None if zeros is None else drop_tile_axes(zeros),
        g,
        sparsity,
        mask,
    )


def simulate_weight(
    weight: Tensor,
    spec: Spec,
    *,
    reduction_axis: int,
    channel_axes: tuple[int, ...],
    groups: int = 1,
    sparsity: str | None = None,
    name: str = "weight",
) -> Tensor:
    """Return ``quantize_weight(…).dequantize()``, every bit of it, in fewer passes over memory.

    The gradient is straight-through, where the pattern keeps and nothing saturates.
    """
    values = weight
    if sparsity is not None:
        values = prune(values, sparsity, axis=reduction_axis, groups=groups, name=name)
    layout = find_layout(
        tuple(weight.shape),
        reduction_axis=reduction_axis,
        channel_axes=channel_axes,
        groups=groups,
    )
    return _quantize(values, spec, layout, None, name)


def quantize_activation(
    x: Tensor,
    spec: Spec,
    *,
    reduction_axis: int,
    groups: int = 1,
    range: Range | LearnedRange | None = None,
    name: str = "activation",
) -> Tensor:
    """Return an activation as ``spec`` would hold it, in fp32, same shape, with a straight-through gradient.

    Args:
        x: fp32 of any shape.
        spec: Activation spec of a scheme. Block scales and scales per token are live; the scale per
            tensor and nvfp4's tensor scale come from ``range`` when the spec is static.
        reduction_axis: Axis along which blocks run; a token is one slice along all of it.
        groups: Convolution groups that the axis spans: blocks do not cross them.
        range: Calibrated range, or one that is learned; None takes it from ``x``.
        name: What an error calls the activation.

    Raises:
        NumericsError: ``x`` holds NaN or Inf.
        SchemeError: The axis is missing, or the groups do not divide it.
    """
    if isinstance(range, LearnedRange):
        return quantize_learned(as_float32(x), range.step, spec.element, by_clip=range.by_clip)
    spans_groups = spec.block_shape is None
    layout = find_layout(
        tuple(x.shape), reduction_axis=reduction_axis, groups=1 if spans_groups else groups
    )
    return _quantize(x, spec, layout, range if spec.range == "static" else None, name)


def _quantize(x: Tensor, spec: Spec, layout: Layout, range: Range | None, name: str) -> Tensor:
    values = as_float32(x.detach())
    if values.numel() == 0:
        return values
    if range is None and _needs_histogram(spec):
        range = _observed(values, spec, name)
    quantized = _quantize_fused(values, spec, layout, range, name)
    needs_inside = x.requires_grad and _can_clip(spec, range)
    if quantized is not None and x.requires_grad and (limit := _clip_limit(spec, range)):
        return pass_clipped(x, quantized, limit)
    if quantized is not None and not needs_inside:
        return pass_straight(x, quantized, None) if x.requires_grad else quantized
    low, high = finite_range(values, name)
    if spec.is_cast:
        quantized = round_plain(values, spec.element, subnormals=spec.subnormals)
        return pass_straight(x, quantized, None) if x.requires_grad else quantized
    rows = values.reshape(1, 1, -1) if spec.granularity == "tensor" else layout.to_rows(values)
    tiles = cut_tiles(rows, spec)

    def back(tiled: Tensor) -> Tensor:
        joined = join_tiles(tiled, (rows.shape[0], rows.shape[1], rows.shape[2]))
        if spec.granularity == "tensor":
            return joined.reshape(values.shape)
        return layout.from_rows(joined)

    if spec.symmetric:
        scales, g = _choose_tile_scales(tiles, spec, range, max(0.0, -low, high))
        steps = steps_of(scales, spec, g)
        if quantized is None:
            quantized = back(quantize_to_steps(tiles, steps, spec_grid(spec)))
        if not needs_inside:
            return pass_straight(x, quantized, None) if x.requires_grad else quantized
        return pass_straight(
            x, quantized, back(tiles.abs() < steps * largest_rounded(spec.element))
        )
    steps, zero = _choose_tile_affine(tiles, spec, range)
    affine, inside = quantize_affine(tiles, steps, zero, spec)
    return pass_straight(x, back(affine), back(inside)) if x.requires_grad else back(affine)


def _needs_histogram(spec: Spec) -> bool:
    """Whether the scale of the whole tensor follows from its histogram (an MSE sweep is exact)."""
    whole = spec.tensor_scale or (spec.granularity == "tensor" and not spec.is_cast)
    name = parse_estimator(spec.estimator).name
    exact = name == "amax" or (name == "mse" and spec.symmetric)
    return whole and not exact


def _can_clip(spec: Spec, range: Range | None) -> bool:
    """Whether any element may saturate: not where its own amax sets an exact scale."""
    by_amax = spec.estimator == "amax" and spec.block_scale == "amax" and range is None
    exact = spec.scale_format == "fp32" or spec.tensor_scale
    return not (spec.is_cast or (by_amax and spec.symmetric and exact))


def _clip_limit(spec: Spec, range: Range | None) -> float | None:
    """Return the magnitude from which on a calibrated range cuts elements off, where it is one for all.

    Of live block scales beside a tensor scale it is what their largest one cuts off.
    """
    if range is None or not spec.symmetric:
        return None
    top = range.scale * largest_rounded(spec.element)
    if spec.tensor_scale and spec.block_scale == "amax":
        return top * find_format(str(spec.scale_format)).max_value
    return top if spec.granularity == "tensor" and not spec.is_cast else None


def _quantize_fused(
    x: Tensor, spec: Spec, layout: Layout, range: Range | None, name: str
) -> Tensor | None:
    """Return ``x`` quantised by a compiled kernel, or None where there is none for it."""
    if not dispatch.can_run(x):
        return None
    if spec.is_cast:
        if not dispatch.can_cast(spec.element, subnormals=spec.subnormals):
            return None
        quantized, amax = dispatch.cast(x, spec.element, subnormals=spec.subnormals)
        check_finite(amax, name)
        return quantized
    if spec.granularity == "tensor" and spec.symmetric:
        if range is None:
            if spec.estimator != "amax":
                return None
            range = make_range(*finite_range(x, name), spec)
        quantized, amax = dispatch.round_flat(x, range.scale, spec_grid(spec))
        check_finite(amax, name)
        return quantized
    if not dispatch.can_scale(spec):
        return None
    g = 1.0
    if spec.tensor_scale:
        g = range.scale if range else make_range(*finite_range(x, name), spec).scale
    whole = spec.block_shape is None
    if whole and layout.positions > 1 and layout.rows_lead:
        strided = (layout.rows, layout.positions * layout.channels, 1)
    elif (whole and layout.positions > 1) or 1 < layout.strided[2] < _SHORT:
        rows = layout.to_rows(x)
        rows = rows.view((layout.rows, -1, 1) if whole else (-1, layout.channels, 1))
        size = rows.shape[1] if spec.block_shape is None else spec.block_shape[1]
        quantized, amax = dispatch.round_blocks(rows, size, spec, g, spec_grid(spec))
        check_finite(amax, name)
        return layout.from_rows(quantized)
    else:
        strided = layout.strided
    size = strided[1] if spec.block_shape is None else spec.block_shape[1]
    view = x.contiguous().view(strided)
    quantized, amax = dispatch.round_blocks(view, size, spec, g, spec_grid(spec))
    check_finite(amax, name)
    return quantized.view(x.shape)


def _observed(x: Tensor, spec: Spec, name: str) -> Range:
    observer = RangeObserver(name=name)
    observer.observe(x)
    return observer.finish(spec)


def _choose_tile_scales(
    tiles: Tensor, spec: Spec, range: Range | None, amax: float
) -> tuple[Tensor, float]:
    """Stored scales of the tiles, or the one of the whole tensor, and the tensor scale."""
    if spec.tensor_scale:
        g = range.scale if range else tensor_scale(amax, spec)
        return find_scales(tiles, spec, g), g
    if range is not None and spec.granularity == "tensor":
        return tiles.new_full((1,) * tiles.ndim, range.scale), 1.0
    return find_scales(tiles, spec), 1.0


def _choose_tile_affine(tiles: Tensor, spec: Spec, range: Range | None) -> tuple[Tensor, Tensor]:
    if range is not None and spec.granularity == "tensor":
        shape = (1,) * tiles.ndim
        return tiles.new_full(shape, range.scale), tiles.new_full(shape, range.zero_point)
    low, high = tiles.amin(TILE_AXES, keepdim=True), tiles.amax(TILE_AXES, keepdim=True)
    return choose_affine(low, high, spec)
