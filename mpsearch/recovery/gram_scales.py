"""Scales of a weight, chosen by squared error in which columns count as the layer's output feels them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.numerics.quantized import drop_tile_axes
from mpsearch.numerics.scales import (
    FLOAT32_MAX,
    choose_affine,
    choose_scales,
    quantize_affine,
    quantize_to_steps,
    steps_of,
    tensor_scale,
)
from mpsearch.numerics.tiles import POWER_RATIOS, TILE_AXES, cut_tiles, join_tiles, spec_grid
from mpsearch.schemes import Spec

_FINE = tuple(2 ** (i / 8) for i in range(6, -13, -1))
"""Multiples of amax that are tried where scales may be anything."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales as they are stored, and what an element's step is.

    Attributes:
        steps: fp32 [R, P, C]; None for a cast.
        zeros: fp32 [R, P, C] zero points of asymmetric integers, else None.
        stored: [A, P, B], as :class:`mpsearch.numerics.quantized.QuantizedTensor` has them.
        stored_zeros: The same of the zero points.
        tensor_scale: What the stored scales are relative to.
    """

    steps: Tensor | None = None
    zeros: Tensor | None = None
    stored: Tensor | None = None
    stored_zeros: Tensor | None = None
    tensor_scale: float = 1.0


def choose_scales_in_gram(rows: Tensor, spec: Spec, importance: Tensor) -> Scales:
    """Return the scales of least squared error, each element's weighed by its ``importance``.

    Args:
        rows: fp32 [R, P, C] what is rounded.
        spec: What it is rounded to.
        importance: [R, P, C], not negative.
    """
    if spec.is_cast:
        return Scales()
    shape = (rows.shape[0], rows.shape[1], rows.shape[2])
    tiles, worth = cut_tiles(rows, spec), cut_tiles(importance.float(), spec)
    g = tensor_scale(float(rows.abs().max()), spec) if spec.tensor_scale else 1.0
    best, best_zeros, least = None, None, None
    for scales, zeros in _candidates(tiles, spec, g):
        steps = steps_of(scales, spec, g)
        if zeros is None:
            rounded = quantize_to_steps(tiles, steps, spec_grid(spec))
        else:
            rounded = quantize_affine(tiles, steps, zeros, spec)[0]
        error = rounded.sub_(tiles).square_().mul_(worth).sum(TILE_AXES, keepdim=True)
        if best is None or least is None:
            best, best_zeros, least = scales, zeros, error
            continue
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, scales, best)
        if zeros is not None and best_zeros is not None:
            best_zeros = torch.where(better, zeros, best_zeros)
    assert best is not None  # there is always a candidate

    def spread(per_tile: Tensor) -> Tensor:
        return join_tiles(per_tile.expand(tiles.shape).contiguous(), shape)

    return Scales(
        spread(steps_of(best, spec, g)),
        None if best_zeros is None else spread(best_zeros),
        drop_tile_axes(best),
        None if best_zeros is None else drop_tile_axes(best_zeros),
        g,
    )


def _candidates(tiles: Tensor, spec: Spec, g: float) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield scales (and zero points) that are tried; the first is what amax gives."""
    ratios = POWER_RATIOS if spec.scale_format == "e8m0" else _FINE
    if not spec.symmetric:
        low, high = tiles.amin(TILE_AXES, keepdim=True), tiles.amax(TILE_AXES, keepdim=True)
        for ratio in (1.0, *(r for r in ratios if r < 1)):
            yield choose_affine(low * ratio, high * ratio, spec)
        return
    amax = tiles.abs().amax(TILE_AXES, keepdim=True)
    for ratio in (1.0, *ratios):
        yield choose_scales((amax * ratio).clamp_(max=FLOAT32_MAX), spec, g), None
