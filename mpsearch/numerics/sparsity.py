"""Structured pruning: n of each m consecutive weights along the reduction."""

import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.numerics.grids import as_float32
from mpsearch.numerics.layout import find_layout
from mpsearch.schemes import parse_sparsity


def prune(
    x: Tensor, pattern: str, *, axis: int = -1, score: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Return ``x`` with all but the best n of each m consecutive elements along ``axis`` set to zero.

    Args:
        x: fp32 of any shape.
        pattern: ``2:4``, ``n:m``, or ``n:m_paired`` (whole pairs are kept: ``4:8_paired`` keeps two of four).
        axis: Reduction axis: channels of a convolution, K of a GEMM.
        score: Same shape as ``x``; the kept elements of a group have the largest sum. None: magnitude,
            that is x² in a pair. Of equal scores the first is kept.
        groups: Convolution groups that the axis spans.

    Raises:
        SchemeError: The pattern is unknown, the axis is missing, or its size is not divisible.
    """
    mask = choose_mask(x, pattern, axis=axis, score=score, groups=groups)
    return torch.where(mask, x, 0.0)


def choose_mask(
    x: Tensor, pattern: str, *, axis: int = -1, score: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Return a bool tensor, shape of ``x``, that is True where :func:`prune` keeps."""
    sparsity = parse_sparsity(pattern)
    values = as_float32(x.detach())
    layout = find_layout(tuple(x.shape), reduction_axis=axis, groups=groups)
    if layout.channels % sparsity.group:
        raise SchemeError(
            f"`channels % {sparsity.group} == 0` must hold for sparsity {pattern}, "
            f"but axis {axis} has {layout.channels}; dense schemes have no such rule"
        )
    if score is not None and score.shape != x.shape:
        raise SchemeError(
            f"`score` must have the tensor's shape {tuple(x.shape)}, got {tuple(score.shape)}"
        )
    worth = values.square() if score is None else as_float32(score.detach())
    units = layout.to_rows(worth).reshape(-1, sparsity.group // sparsity.unit, sparsity.unit)
    order = units.sum(-1).argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros(order.shape, dtype=torch.bool, device=x.device)
    kept.scatter_(1, order[:, : sparsity.kept // sparsity.unit], True)
    mask = kept.unsqueeze(-1).expand(-1, -1, sparsity.unit).reshape(layout.rows, 1, -1)
    return layout.from_rows(mask)
