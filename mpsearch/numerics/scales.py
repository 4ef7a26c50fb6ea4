"""Scales from ranges: the step of each block, channel, token or tensor.

A step is what one element unit is worth: ``x_hat = round(x / step) * step``. All arithmetic is fp32, as a
runtime computes it: ``amax / max`` for fp32 scales; OCP MX v1.0's ``2**(floor(log2(amax)) - emax)`` for
e8m0; ``scale * g`` with ``scale = e4m3(amax / (6 * g))`` and ``g = amax(tensor) / (6 * 448)`` for nvfp4, the
product rounded to fp32 before it divides, as two chained DequantizeLinear nodes do.
A step of 0 stands for a block of zeros: its elements are zeros.
"""

import torch
from torch import Tensor

from mpsearch.formats import find_format
from mpsearch.numerics.grids import EXPONENT_MASK, Grid, round_plain, round_to_grid
from mpsearch.schemes import Spec

FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127


def tensor_scale(amax: float, spec: Spec) -> float:
    """Return the fp32 scale that the block scales of ``spec`` are relative to, from the tensor's amax.

    Args:
        amax: Largest magnitude of the tensor, or its calibrated range.
        spec: A spec with ``tensor_scale`` (nvfp4): ``amax / (6 * 448)``.
    """
    unit = spec.element.max_value * _scale_format_max(spec)
    return float(torch.tensor(amax, dtype=torch.float32) / unit)


def choose_scales(amax: Tensor, spec: Spec, g: float = 1.0) -> Tensor:
    """Return the stored scale for each amax, in ``spec``'s scale format.

    Args:
        amax: fp32 >= 0 of any shape.
        spec: Says element and scale format.
        g: The tensor scale; 1 for specs without.

    Returns:
        fp32 of the same shape, exact in the scale format; 0 where amax is 0, but for e8m0 that has no zero.
    """
    top = spec.element.max_value
    if spec.scale_format == "e8m0":
        # floor(log2(amax)) is the exponent field; -127 has the pattern of a subnormal.
        field = (amax.view(torch.int32) & EXPONENT_MASK) - (spec.element.max_exponent << 23)
        return torch.where(field > 0, field, 0x400000).to(torch.int32).view(torch.float32)
    unit = torch.tensor(top, dtype=torch.float32) * torch.tensor(g, dtype=torch.float32)
    scales = amax / unit.to(amax.device)
    if spec.scale_format == "fp32":
        return scales.clamp_(max=largest_step(spec))
    scales = torch.where(amax == 0, 0.0, scales).clamp_(max=_scale_format_max(spec))
    return round_plain(scales, find_format(str(spec.scale_format)))


def choose_steps(amax: Tensor, spec: Spec, g: float = 1.0) -> Tensor:
    """Return the step for each amax: the stored scale times the tensor scale ``g``, in fp32."""
    return steps_of(choose_scales(amax, spec, g), spec, g)


def steps_of(scales: Tensor, spec: Spec, g: float = 1.0) -> Tensor:
    """Return the steps that stored ``scales`` stand for beside the tensor scale ``g``, in fp32."""
    return (scales * torch.tensor(g, dtype=torch.float32)) if spec.tensor_scale else scales


def round_to_steps(x: Tensor, steps: Tensor, grid: Grid) -> Tensor:
    """Return ``round(x / steps)``, elements of the format; a step of 0 gives 0."""
    divisor = torch.where(steps == 0, torch.inf, steps)
    return round_to_grid(x / divisor, grid)


def quantize_to_steps(x: Tensor, steps: Tensor, grid: Grid) -> Tensor:
    """Return ``round(x / steps) * steps``; ``steps`` broadcasts against ``x``, and a step of 0 gives 0."""
    return round_to_steps(x, steps, grid).mul_(steps)


def choose_affine(low: Tensor, high: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """Return step and zero point of an asymmetric integer spec for each (low, high).

    The range is widened to hold 0, so that zero is exactly representable: ``step = (high - low) / (qmax -
    qmin)``, ``zero = clip(rint(qmin - low / step), qmin, qmax)``.

    Returns:
        fp32 step and zero point, of the shape of ``low``; both 0 where the range is empty.
    """
    top = spec.element.max_value
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    steps = high / (2 * top + 1) - low / (2 * top + 1)
    if spec.scale_format != "fp32":
        fmt = find_format(str(spec.scale_format))
        steps = round_plain(steps.clamp_(max=fmt.max_value), fmt)
    zero = torch.where(steps == 0, 0.0, -(top + 1) - low / steps)
    return steps, zero.round_().clamp_(-(top + 1), top)


def round_affine(x: Tensor, steps: Tensor, zero: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """Return ``clip(rint(x / steps) + zero, qmin, qmax)`` and where nothing was clipped."""
    top = spec.element.max_value
    divisor = torch.where(steps == 0, torch.inf, steps)
    code = (x / divisor).round_().add_(zero)
    inside = (code >= -(top + 1)) & (code <= top)
    return code.clamp_(-(top + 1), top), inside


def quantize_affine(x: Tensor, steps: Tensor, zero: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """Return ``(clip(rint(x / steps) + zero, qmin, qmax) - zero) * steps`` and where nothing was clipped."""
    code, inside = round_affine(x, steps, zero, spec)
    return code.sub_(zero).mul_(steps), inside


def _scale_format_max(spec: Spec) -> float:
    return find_format(str(spec.scale_format)).max_value


def largest_step(spec: Spec) -> float:
    """Step whose product with the largest element stays finite."""
    return FLOAT32_MAX / spec.element.max_value * (1 - 2.0**-24)
