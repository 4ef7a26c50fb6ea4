"""A simulated weight taken apart into element codes and scales, to the bit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.errors import PlanError
from mpsearch.formats import find_format
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.layout import Layout, find_layout
from mpsearch.numerics.scales import choose_affine, tensor_scale
from mpsearch.numerics.tiles import TILE_AXES, cut_tiles, find_steps, join_tiles
from mpsearch.schemes import Spec


@dataclass(frozen=True, slots=True)
class WeightCodes:
    """A weight as its format stores it.

    Attributes:
        spec: What it is stored in; not a cast.
        layout: View of the weight as [R rows, P positions, C channels].
        elements: [R, P, C] elements in units of their step, fp32 but exact in the element format.
        scales: [A, P, B] stored scales, fp32 but exact in the scale format: of A row blocks and B channel
            blocks. A spec per tensor or channel has P = B = 1.
        channel_axis: The one axis of the weight that indexes rows, if there is just one.
        tensor_scale: What the scales are relative to (nvfp4); 1 for others.
        zeros: [A, P, B] zero points of asymmetric integers, else None.
    """

    spec: Spec
    layout: Layout
    elements: Tensor
    scales: Tensor
    channel_axis: int | None
    tensor_scale: float = 1.0
    zeros: Tensor | None = None


def find_codes(
    simulated: Tensor,
    original: Tensor,
    spec: Spec,
    *,
    reduction_axis: int,
    channel_axes: tuple[int, ...],
    groups: int = 1,
    name: str = "weight",
) -> WeightCodes:
    """Return the codes and scales whose product is ``simulated``, every bit of it.

    Args:
        simulated: fp32 weight as the simulation computes with it.
        original: fp32 weight before quantisation, pruned if the scheme is sparse: scales follow from it.
        spec: Weight spec of the scheme; not a cast.
        reduction_axis: Axis along which blocks run.
        channel_axes: Axes that together index output channels.
        groups: Convolution groups that the reduction axis spans.
        name: What an error calls the weight.

    Raises:
        PlanError: ``simulated`` is not what ``spec`` makes of ``original``.
    """
    layout = find_layout(
        tuple(simulated.shape),
        reduction_axis=reduction_axis,
        channel_axes=channel_axes,
        groups=groups,
    )
    rows = layout.to_rows(simulated)
    # A recovered weight is known only as the simulation has it, and gives its own scales up to rounding.
    found = _take_apart(rows, layout.to_rows(original), spec) or _take_apart(rows, rows, spec)
    if found is None:
        raise PlanError(
            f"{name}: the simulated weight must be the original quantised to {spec.format} per "
            f"{spec.granularity}, but no scales give its every element"
        )
    units, scales, g, zeros = found
    shape = (layout.rows, layout.positions, layout.channels)
    single = len(channel_axes) == 1 and groups == 1
    return WeightCodes(
        spec,
        layout,
        join_tiles(units, shape).reshape(shape),
        _drop_tile_axes(scales),
        channel_axes[0] % simulated.ndim if single else None,
        g,
        None if zeros is None else _drop_tile_axes(zeros),
    )


def _take_apart(
    simulated: Tensor, original: Tensor, spec: Spec
) -> tuple[Tensor, Tensor, float, Tensor | None] | None:
    """Units, stored scales, tensor scale and zero points in tiles; None if ``original`` gives others."""
    tiles, source = cut_tiles(simulated, spec), cut_tiles(original, spec)
    if not spec.symmetric:
        low, high = source.amin(TILE_AXES, keepdim=True), source.amax(TILE_AXES, keepdim=True)
        steps, zeros = choose_affine(low, high, spec)
        units = (tiles / torch.where(steps == 0, torch.inf, steps)).round() + zeros
        return (units, steps, 1.0, zeros) if torch.equal((units - zeros) * steps, tiles) else None
    largest = float(source.abs().max()) if source.numel() else 0.0
    for amax in _neighbours(largest) if spec.tensor_scale else (largest,):
        g = tensor_scale(amax, spec) if spec.tensor_scale else 1.0
        steps = find_steps(source, spec, g)
        if spec.scale_format == "fp32":
            for nudged in (_nudged(steps, torch.inf), _nudged(steps, 0.0)):
                wrong = _units(tiles, steps, spec) * steps != tiles
                steps = torch.where(wrong.any(1, keepdim=True).any(4, keepdim=True), nudged, steps)
        units = _units(tiles, steps, spec)
        if torch.equal(units * steps, tiles):
            scales = steps
            if spec.tensor_scale:
                stored = find_format(str(spec.scale_format))
                scales = round_elements(steps / torch.tensor(g or 1.0), stored)
            return units, scales, g, None
    return None


def _units(tiles: Tensor, steps: Tensor, spec: Spec) -> Tensor:
    divisor = torch.where(steps == 0, torch.inf, steps)
    return round_elements(tiles / divisor, spec.element, subnormals=spec.subnormals)


def _neighbours(amax: float) -> tuple[float, ...]:
    """``amax`` and the fp32 numbers beside it."""
    x = torch.tensor(amax, dtype=torch.float32)
    return tuple(float(v) for v in (x, _nudged(x, torch.inf), _nudged(x, 0.0)))


def _nudged(x: Tensor, towards: float) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, towards))


def _drop_tile_axes(per_tile: Tensor) -> Tensor:
    """[A, 1, P, B, 1] without the axes inside a tile."""
    return per_tile[:, 0, :, :, 0].contiguous()
