"""Histograms of fp32 patterns that merge exactly, and the ranges that follow from them.

A bin is the upper half of the fp32 pattern: sign, exponent and 7 bits of the significand. Bins are the same
for every tensor, so that histograms of batches add up to that of all data, in any order, without loss.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.notations import parse_estimator
from mpsearch.numerics import dispatch
from mpsearch.numerics.grids import find_grid
from mpsearch.numerics.scales import choose_affine, choose_steps, quantize_affine, quantize_to_steps
from mpsearch.numerics.tiles import CLIP_RATIOS, POWER_RATIOS
from mpsearch.schemes import Spec

Floats = NDArray[np.float64]

BINS = 1 << 16
_SUBDIVISIONS = 8
_ENTROPY_BINS = 2048
_ENTROPY_LEVELS = 128
_ENTROPY_STRIDE = 16


def count_bins(x: Tensor) -> Tensor:
    """Return int64 [65536], how many elements of fp32 ``x`` fall in each bin."""
    if dispatch.can_run(x):
        return dispatch.count_bins(x)
    bins = (x.reshape(-1).view(torch.int32) >> 16) & (BINS - 1)
    return torch.bincount(bins, minlength=BINS).cpu()


def choose_clip(counts: Tensor, low: float, high: float, spec: Spec) -> tuple[float, float]:
    """Return the (low, high) to which the estimator of ``spec`` cuts the data.

    Args:
        counts: [65536] counts of all data.
        low: Smallest value of the data.
        high: Largest value of the data.
        spec: Its estimator decides; symmetric specs get (-clip, clip).
    """
    amax, estimator = max(-low, high, 0.0), parse_estimator(spec.estimator)
    if amax == 0 or estimator.name == "amax":
        return (low, high) if not spec.symmetric else (-amax, amax)
    edges, numbers = _find_edges(counts, low, high)
    if estimator.name == "percentile":
        percent = estimator.value
        if not spec.symmetric:
            return _quantile(edges, numbers, 100 - percent), _quantile(edges, numbers, percent)
        clip = _quantile(*_fold(edges, numbers), percent)
        return -clip, clip
    if estimator.name == "entropy":
        clip = _least_divergence(*_fold(edges, numbers), amax, spec)
        return (-clip, clip) if spec.symmetric else (max(low, -clip), min(high, clip))
    points, weights = _find_points(edges, numbers)
    ratios = POWER_RATIOS if spec.scale_format == "e8m0" else CLIP_RATIOS
    errors = []
    for ratio in ratios:
        cut = _quantizer(low * ratio, high * ratio, spec)
        errors.append(float((weights * np.square(cut(points) - points)).sum()))
    best = ratios[int(np.argmin(errors))]
    return (-amax * best, amax * best) if spec.symmetric else (low * best, high * best)


def _quantizer(low: float, high: float, spec: Spec) -> Callable[[Floats], Floats]:
    """Return fake quantisation of an array at the scale of [low, high]."""
    ends = torch.tensor([low, high], dtype=torch.float32)

    def run(points: Floats) -> Floats:
        x = torch.from_numpy(points.astype(np.float32))
        if not spec.symmetric:
            steps, zero = choose_affine(ends[0], ends[1], spec)
            return quantize_affine(x, steps, zero, spec)[0].double().numpy()
        steps = choose_steps(ends.abs().amax(), spec)
        grid = find_grid(spec.element, subnormals=spec.subnormals)
        return quantize_to_steps(x, steps, grid).double().numpy()

    return run


def _find_edges(counts: Tensor, low: float, high: float) -> tuple[Floats, Floats]:
    """Return edges [n, 2] of the occupied bins in ascending order, cut to the data, and counts [n]."""
    occupied = counts.nonzero().reshape(-1).numpy()
    numbers = counts[torch.from_numpy(occupied)].numpy().astype(np.float64)
    inner = (occupied.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    end = (((occupied & 0x7FFF) + 1).astype(np.uint32) << 16).view(np.float32)
    size = np.where(np.isfinite(end), end.astype(np.float64), 2.0**128)
    outer = np.copysign(size, inner)
    edges = np.sort(np.stack([inner, outer], axis=1), axis=1).clip(low, high)
    order = np.argsort(edges.sum(axis=1), kind="stable")
    return edges[order], numbers[order]


def _fold(edges: Floats, numbers: Floats) -> tuple[Floats, Floats]:
    """Return the bins of the magnitudes: those of the numbers, negative ones mirrored."""
    folded = np.sort(np.abs(edges), axis=1)
    order = np.argsort(folded.sum(axis=1), kind="stable")
    return folded[order], numbers[order]


def _quantile(edges: Floats, numbers: Floats, percent: float) -> float:
    """Return the value below which ``percent`` of the data lie, linear inside a bin."""
    total = np.cumsum(numbers)
    target = percent / 100 * total[-1]
    at = min(int(np.searchsorted(total, target)), len(total) - 1)
    inside = (target - (total[at] - numbers[at])) / numbers[at]
    return float(edges[at, 0] + inside * (edges[at, 1] - edges[at, 0]))


def _find_points(edges: Floats, numbers: Floats) -> tuple[Floats, Floats]:
    """Return points spread evenly over each bin, and their weights."""
    inside = (np.arange(_SUBDIVISIONS) + 0.5) / _SUBDIVISIONS
    points = edges[:, :1] + inside * (edges[:, 1:] - edges[:, :1])
    weights = np.repeat(numbers / _SUBDIVISIONS, _SUBDIVISIONS)
    return points.reshape(-1), weights


def _least_divergence(edges: Floats, numbers: Floats, amax: float, spec: Spec) -> float:
    """Return the clip of least KL(clipped histogram ‖ quantised histogram), as TensorRT chooses it.

    2048 even bins of the magnitudes; for each clip the outliers join the last bin, and the bins that one
    element of the format represents share their count evenly among those that are not empty.
    """
    grid = np.linspace(0.0, amax, _ENTROPY_BINS + 1)
    even = np.zeros(_ENTROPY_BINS)
    width = np.maximum(edges[:, 1] - edges[:, 0], 1e-300)
    for (left, right), number, span in zip(edges, numbers, width, strict=True):
        first = min(int(left / amax * _ENTROPY_BINS), _ENTROPY_BINS - 1)
        last = min(int(right / amax * _ENTROPY_BINS), _ENTROPY_BINS - 1)
        if first == last or right <= left:
            even[first] += number
            continue
        over = np.clip(grid[first + 1 : last + 2], None, right) - np.clip(
            grid[first : last + 1], left, None
        )
        even[first : last + 1] += number * np.maximum(over, 0) / span
    centres = (grid[:-1] + grid[1:]) / 2
    best, least = amax, np.inf
    for stop in range(_ENTROPY_LEVELS, _ENTROPY_BINS + 1, _ENTROPY_STRIDE):
        divergence = _divergence(even, centres, stop, float(grid[stop]), spec)
        if divergence < least:
            best, least = float(grid[stop]), divergence
    return best


def _divergence(even: Floats, centres: Floats, stop: int, clip: float, spec: Spec) -> float:
    inside = even[:stop]
    reference = inside.copy()
    reference[-1] += even[stop:].sum()
    levels = np.unique(_quantizer(-clip, clip, spec)(centres[:stop]), return_inverse=True)[1]
    filled = inside > 0
    share = np.bincount(levels, weights=inside) / np.maximum(
        np.bincount(levels, weights=filled.astype(np.float64)), 1
    )
    quantized = np.where(filled, share[levels], 0.0)
    reference /= reference.sum()
    if quantized.sum() == 0:
        return np.inf
    quantized /= quantized.sum()
    tiny = 1e-12  # an empty last bin that outliers joined
    used = reference > 0
    ratio = reference[used] / np.maximum(quantized[used], tiny)
    return float((reference[used] * np.log(ratio)).sum())
