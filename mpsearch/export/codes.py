"""A simulated weight taken apart into element codes and scales, to the bit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.errors import PlanError
from mpsearch.formats import find_format
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.layout import Layout, find_layout
from mpsearch.numerics.scales import choose_affine, tensor_scale
from mpsearch.numerics.tiles import cut_tiles, find_steps, join_tiles
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
    tiles = cut_tiles(layout.to_rows(simulated), spec)
    source = cut_tiles(layout.to_rows(original), spec)
    g = tensor_scale(float(original.abs().max()), spec) if spec.tensor_scale else 1.0
    zeros = None
    if spec.symmetric:
        steps = find_steps(source, spec, g)
        divisor = torch.where(steps == 0, torch.inf, steps)
        units = round_elements(tiles / divisor, spec.element, subnormals=spec.subnormals)
        rebuilt = units * steps
    else:
        low, high = source.amin((1, 4), keepdim=True), source.amax((1, 4), keepdim=True)
        steps, zeros = choose_affine(low, high, spec)
        units = (tiles / torch.where(steps == 0, torch.inf, steps)).round() + zeros
        rebuilt = (units - zeros) * steps
    if not torch.equal(rebuilt, tiles):
        raise PlanError(
            f"{name}: the simulated weight must be the original quantised to {spec.format} per "
            f"{spec.granularity}, but {int((rebuilt != tiles).sum())} elements differ"
        )
    scales = steps
    if spec.tensor_scale:
        scales = round_elements(
            steps / torch.tensor(g if g else 1.0), find_format(str(spec.scale_format))
        )
    shape = (layout.rows, layout.positions, layout.channels)
    return WeightCodes(
        spec,
        layout,
        join_tiles(units, shape).reshape(shape),
        _drop_tile_axes(scales),
        channel_axes[0] % simulated.ndim if len(channel_axes) == 1 and groups == 1 else None,
        g,
        None if zeros is None else _drop_tile_axes(zeros),
    )


def _drop_tile_axes(per_tile: Tensor) -> Tensor:
    """[A, 1, P, B, 1] without the axes inside a tile."""
    return per_tile[:, 0, :, :, 0].contiguous()
