"""Dispatch to the compiled kernels, for CPU tensors where numba works; else the caller uses torch.

Nothing of numba is imported before the first tensor comes. Results are the same bits on both paths.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpsearch.formats import Format, find_format
from mpsearch.numerics.grids import Grid, find_grid
from mpsearch.numerics.scales import largest_step
from mpsearch.schemes import Spec

_GRAIN = 1 << 16
"""Elements that are worth a thread of their own."""


@cache
def load_kernels() -> ModuleType | None:
    """Return the compiled kernels, or None where numba does not work."""
    try:
        import numba

        if numba.config.DISABLE_JIT:
            return None
        from mpsearch.numerics import compiled
    except ImportError:
        return None
    return compiled


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that share a tensor; one pool a process, since threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="mpsearch-numerics")


def can_run(x: Tensor) -> bool:
    """Whether the kernels take ``x``: fp32 on the CPU, and numba works."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and load_kernels() is not None


@cache
def can_scale(spec: Spec) -> bool:
    """Whether a kernel chooses the scales of ``spec`` from a live tensor."""
    scale = find_format(str(spec.scale_format))
    return (
        spec.symmetric
        and spec.estimator == "amax"
        and spec.block_scale == "amax"
        and (spec.block_shape is None or spec.block_shape[0] == 1)
        and (scale.name in ("fp32", "e8m0") or scale.exponent_bits < 8)
    )


def _spread(kernel: Callable[..., Any], rows: int, elements: int, *args: Any) -> list[Any]:
    """Call ``kernel(*arrays, start, stop, *rest)`` on ranges of rows in as many threads as torch uses."""
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    rest = args[len(arrays) :]
    parts = max(1, min(torch.get_num_threads(), rows, elements // _GRAIN))
    bounds = [rows * i // parts for i in range(parts + 1)]
    if parts == 1:
        return [kernel(*arrays, 0, rows, *rest)]
    pool = _pool(os.getpid(), parts - 1)
    waiting = [pool.submit(kernel, *arrays, *bounds[i : i + 2], *rest) for i in range(1, parts)]
    return [kernel(*arrays, *bounds[:2], *rest), *(future.result() for future in waiting)]


def _kernels() -> ModuleType:
    kernels = load_kernels()
    assert kernels is not None  # callers ask can_run first
    return kernels


def _number(pattern: int) -> float:
    return float(np.int32(pattern).view(np.float32))


def find_extremes(x: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest number of a non-empty ``x``; NaN shows in one of them."""
    flat = x.reshape(-1).numpy()
    pairs = _spread(_kernels().find_extremes, flat.size, flat.size, flat)
    low, high = min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    return _number(low ^ (low >> 31 & 0x7FFFFFFF)), _number(high ^ (high >> 31 & 0x7FFFFFFF))


def count_bins(x: Tensor) -> Tensor:
    """Return int64 [65536], how often each upper half of the fp32 pattern occurs in ``x``."""
    flat = x.reshape(-1).numpy()
    parts = _spread(_kernels().count_bins, flat.size, flat.size, flat)
    return torch.from_numpy(np.sum(parts, axis=0, dtype=np.int64))


def round_flat(x: Tensor, step: float, grid: Grid) -> tuple[Tensor, float]:
    """Return ``round(x / step) * step`` and the largest magnitude of ``x`` (NaN or Inf if it holds any)."""
    source = x.contiguous()
    out = torch.empty_like(source)
    flat = source.view(-1).numpy(), out.view(-1).numpy()
    size = source.numel()
    worst = _spread(_kernels().round_flat, size, size, *flat, np.float32(step), _pack(grid))
    return out, _number(max(worst))


def clip_gradient(
    x: Tensor, quantized: Tensor, gradient: Tensor, limit: float, share: float
) -> tuple[Tensor, float]:
    """Return ``gradient`` where ``|x| < limit``, else 0, and its product with what a learned step moves, summed.

    That is ``share * (quantized - x)`` below the limit and ``quantized`` from there on.
    """
    source = x.contiguous()
    out = torch.empty_like(source)
    arrays = (source, quantized.contiguous(), gradient.contiguous(), out)
    flat = (array.view(-1).numpy() for array in arrays)
    size = source.numel()
    sums = _spread(
        _kernels().clip_gradient, size, size, *flat, np.float32(limit), np.float32(share)
    )
    return out, float(sum(sums))


def depthwise_gradient(
    x: Tensor,
    gradient: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Return the gradient [C, 1, kh, kw] of a depthwise kernel of ``size`` from its input's and output's."""
    arrays = [
        t.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).numpy()
        for t in (x, gradient)
    ]
    where = size, stride, pads, dilation
    kernel = _kernels().depthwise_gradient
    parts = _spread(kernel, x.shape[0], gradient.numel() * size[0] * size[1], *arrays, *where)
    return torch.from_numpy(np.sum(parts, axis=0)).permute(2, 0, 1).unsqueeze(1)


def can_cast(format: Format, *, subnormals: bool) -> bool:
    """Whether a kernel casts to ``format``; fp32 needs none."""
    return format.kind != "exponent" and (
        format.exponent_bits < 8 or (subnormals and format.name != "fp32")
    )


def cast(x: Tensor, format: Format, *, subnormals: bool) -> tuple[Tensor, float]:
    """Return ``x`` rounded to elements without a scale, and its largest magnitude."""
    if format.exponent_bits < 8:
        return round_flat(x, 1.0, find_grid(format, subnormals=subnormals))
    source = x.contiguous()
    out = torch.empty_like(source)
    flat = source.view(-1).numpy(), out.view(-1).numpy()
    size = source.numel()
    dropped = 23 - format.mantissa_bits
    worst = _spread(_kernels().round_patterns, size, size, *flat, dropped)
    return out, _number(max(worst))


def round_blocks(x: Tensor, block: int, spec: Spec, g: float, grid: Grid) -> tuple[Tensor, float]:
    """Return ``x`` rounded in blocks along its middle axis, and its largest magnitude.

    Args:
        x: Contiguous fp32 [outer, channels, inner]; blocks of inner > 1 have a step for each position.
        block: Elements of a block; the last of each row may be short.
        spec: Symmetric, its scales by amax.
        g: Tensor scale of nvfp4; 1 for others.
        grid: Of the elements.
    """
    outer, channels, inner = x.shape
    out = torch.empty_like(x)
    rule, packed = _rule(spec, g), _pack(grid)
    if inner > 1:
        arrays = x.numpy(), out.numpy()
        strips = outer * -(-inner // _kernels().STRIP)
        worst = _spread(_kernels().round_strided, strips, x.numel(), *arrays, block, rule, packed)
        return out, _number(max(worst))
    flat = x.view(outer, channels).numpy(), out.view(outer, channels).numpy()
    if block >= channels:
        worst = _spread(_kernels().round_rows, outer, x.numel(), *flat, rule, packed)
    else:
        worst = _spread(_kernels().round_blocks, outer, x.numel(), *flat, block, rule, packed)
    return out, _number(max(worst))


def prune_fours(x: Tensor, kept: int) -> tuple[Tensor, float]:
    """Return contiguous ``x`` with the ``kept`` largest of each 4 consecutive elements, and its largest."""
    out = torch.empty_like(x)
    fours = x.view(-1, 4).numpy(), out.view(-1, 4).numpy()
    worst = _spread(_kernels().prune_fours, x.numel() // 4, x.numel(), *fours, np.int32(kept))
    return out, _number(max(worst))


def keep_largest(scores: Tensor, kept: int) -> Tensor:
    """Return bool [n, m], True at the ``kept`` largest scores of each row, the first of equal ones."""
    mask = torch.empty(scores.shape, dtype=torch.bool)
    arrays = scores.contiguous().numpy(), mask.numpy()
    _spread(_kernels().keep_largest, scores.shape[0], scores.numel(), *arrays, kept)
    return mask


@cache
def _pack(grid: Grid) -> tuple[Any, ...]:
    return (
        np.int32(grid.shift),
        np.int32(grid.floor),
        np.float32(grid.cap),
        np.float32(grid.max_value),
        np.float32(grid.flush),
    )


@lru_cache(maxsize=4096)
def _rule(spec: Spec, g: float) -> tuple[Any, ...]:
    compiled = _kernels()
    unit = np.float32(spec.element.max_value) * np.float32(g)
    emax = np.int32(spec.element.max_exponent << 23)
    scale = find_format(str(spec.scale_format))
    if scale.name == "e8m0":
        kind, largest, grid = compiled.RULE_E8M0, 0.0, find_grid(find_format("e4m3"))
    elif scale.name == "fp32":
        kind, largest, grid = compiled.RULE_FP32, largest_step(spec), find_grid(find_format("e4m3"))
    else:
        kind, largest, grid = compiled.RULE_MINIFLOAT, scale.max_value, find_grid(scale)
    factor = np.float32(g if spec.tensor_scale else 1.0)
    return np.int32(kind), unit, np.float32(largest), emax, factor, _pack(grid)
