"""Tensors cut into the tiles that share a scale, and the scale of each tile."""

from collections.abc import Iterable
from math import ceil, floor, log2

import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.notations import parse_estimator
from mpsearch.numerics.grids import Grid, find_grid
from mpsearch.numerics.scales import FLOAT32_MAX, choose_scales, quantize_to_steps, steps_of
from mpsearch.schemes import Spec

TILE_AXES = (1, 4)
"""Axes of a tiled tensor [row blocks, rows, positions, channel blocks, channels] inside one tile."""

CLIP_RATIOS = tuple(1 - 0.02 * i for i in range(35))
"""Fractions of amax that an MSE sweep tries."""

POWER_RATIOS = tuple(2.0**i for i in range(1, -8, -1))
"""The same for scales that are powers of two."""

BLOCK_RATIOS = tuple(2 ** (i / 8) for i in range(-4, 7))
"""Multiples of a block's amax that an MSE sweep of its scale tries: every e4m3 code nearby."""


def cut_tiles(rows: Tensor, spec: Spec) -> Tensor:
    """Return [rows, positions, channels] as tiles, padded with zeros where a block is short.

    Args:
        rows: fp32 [R, P, C].
        spec: Its granularity: ``tensor`` is one tile, ``channel`` and ``token`` one a row.

    Returns:
        [A, t, P, B, w]: scales are shared over t and w.
    """
    R, P, C = rows.shape
    if spec.block_shape is None:
        return rows.reshape((1, 1, 1, 1, -1) if spec.granularity == "tensor" else (R, 1, 1, 1, -1))
    tall, wide = min(spec.block_shape[0], R), min(spec.block_shape[1], C)
    A, B = ceil(R / tall), ceil(C / wide)
    if (A * tall, B * wide) != (R, C):
        rows = torch.nn.functional.pad(rows, (0, B * wide - C, 0, 0, 0, A * tall - R))
    return rows.reshape(A, tall, P, B, wide)


def join_tiles(tiles: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return tiles [A, t, P, B, w] as [rows, positions, channels] of ``shape``, padding cut off."""
    R, P, C = shape
    if tiles.numel() == R * P * C:
        return tiles.reshape(R, P, C)
    A, t, _, B, w = tiles.shape
    return tiles.reshape(A * t, P, B * w)[:R, :, :C]


def find_scales(tiles: Tensor, spec: Spec, g: float = 1.0) -> Tensor:
    """Return the stored scale of each tile, chosen from its own values as ``spec`` says.

    Args:
        tiles: fp32 [A, t, P, B, w].
        spec: Symmetric; its estimator (``block_scale`` of block formats) chooses.
        g: Tensor scale of nvfp4; 1 for others.

    Returns:
        fp32 [A, 1, P, B, 1], exact in the scale format; 0 for a tile of zeros (e8m0: its smallest).

    Raises:
        SchemeError: The estimator needs a histogram, which only a whole tensor has.
    """
    amax = tiles.abs().amax(TILE_AXES, keepdim=True)
    if spec.block_scale == "four_over_six":
        # arXiv 2512.02010: amax lands on 6, or on 4, below which e2m1's steps are finer.
        return _least_error(tiles, amax, (1.0, 1.5), spec, g)
    if spec.block_scale == "mse":
        return _least_error(tiles, amax, (1.0, *BLOCK_RATIOS), spec, g)
    if spec.estimator == "mse" and spec.scale_format == "e8m0":
        return _least_error(tiles, amax, POWER_RATIOS, spec, g)
    if spec.estimator == "mse":
        return _least_error(tiles, amax, CLIP_RATIOS, spec, g)
    estimator = parse_estimator(spec.estimator)
    if estimator.name == "percentile" and spec.granularity in ("channel", "token"):
        return choose_scales(_percentile(tiles, estimator.value), spec, g)
    if spec.estimator != "amax" and not spec.tensor_scale:
        raise SchemeError(
            f"scales per {spec.granularity} must come from amax or mse (channels and tokens also from a "
            f"percentile), got estimator={spec.estimator!r}"
        )
    return choose_scales(amax, spec, g)


def spec_grid(spec: Spec) -> Grid:
    """Return the grid of the spec's elements."""
    return find_grid(spec.element, subnormals=spec.subnormals)


def _least_error(
    tiles: Tensor, amax: Tensor, ratios: Iterable[float], spec: Spec, g: float
) -> Tensor:
    """Return, tile by tile, the scale of least squared error for a ratio of amax; the first wins ties."""
    grid = spec_grid(spec)
    candidates = (choose_scales((amax * r).clamp_(max=FLOAT32_MAX), spec, g) for r in ratios)
    best = next(candidates)
    least = _squared_error(tiles, steps_of(best, spec, g), grid)
    for scales in candidates:
        error = _squared_error(tiles, steps_of(scales, spec, g), grid)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best


def _squared_error(tiles: Tensor, steps: Tensor, grid: Grid) -> Tensor:
    error = quantize_to_steps(tiles, steps, grid).sub_(tiles)
    return error.double().square_().sum(TILE_AXES, keepdim=True)  # squares of fp32 may not fit fp32


def _percentile(tiles: Tensor, percent: float) -> Tensor:
    A, t, P, B, w = tiles.shape
    magnitudes = tiles.abs().permute(0, 2, 3, 1, 4).reshape(A, P, B, t * w)
    rank = max(1, ceil(percent / 100 * t * w))
    return magnitudes.kthvalue(rank, dim=-1).values.reshape(A, 1, P, B, 1)


def grid_values(spec: Spec) -> Tensor:
    """Return the elements of a spec with scales in ascending order, fp32."""
    element = spec.element
    if element.kind == "int":
        most = int(element.max_value)
        return torch.arange(-most - (not spec.symmetric), most + 1, dtype=torch.float32)
    values, value = [0.0], 0.0
    while value < element.max_value:
        exponent = floor(log2(max(value, element.min_normal)))
        value += 2.0 ** (exponent - element.mantissa_bits)
        if spec.subnormals or value >= element.min_normal:
            values.append(value)
    return torch.tensor([-v for v in values[:0:-1]] + values, dtype=torch.float32)
