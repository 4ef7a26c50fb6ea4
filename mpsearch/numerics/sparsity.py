"""Structured pruning: n of each m consecutive weights along the reduction."""

import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.numerics import dispatch
from mpsearch.numerics.grids import as_float32
from mpsearch.numerics.layout import Layout, find_layout
from mpsearch.numerics.ranges import check_finite, finite_range
from mpsearch.schemes import Sparsity, parse_sparsity


def prune(
    x: Tensor,
    pattern: str,
    *,
    axis: int = -1,
    score: Tensor | None = None,
    groups: int = 1,
    name: str = "tensor",
) -> Tensor:
    """Return ``x`` with all but the best n of each m consecutive elements along ``axis`` set to zero.

    Args:
        x: fp32 of any shape.
        pattern: ``2:4``, ``n:m``, or ``n:m_paired`` (whole pairs are kept: ``4:8_paired`` keeps two of four).
        axis: Reduction axis: channels of a convolution, K of a GEMM.
        score: Same shape as ``x``; the kept elements of a group have the largest sum. None: magnitude,
            which in a pair is the sum of squares. Of equal scores the first is kept.
        groups: Convolution groups that the axis spans.
        name: What an error calls the tensor.

    Returns:
        fp32 of the same shape; the gradient passes where elements were kept.

    Raises:
        SchemeError: The pattern is unknown, the axis is missing, or its size is not divisible.
        NumericsError: ``x`` or ``score`` holds NaN or Inf.
    """
    sparsity, layout = _find_groups(x, pattern, axis, groups)
    plain = score is None and not x.requires_grad and (sparsity.group, sparsity.unit) == (4, 1)
    if plain and layout.strided[2] == 1 and dispatch.can_run(x) and x.numel():
        pruned, amax = dispatch.prune_fours(x.contiguous(), sparsity.kept)
        check_finite(amax, name)
        return pruned
    mask = choose_mask(x, pattern, axis=axis, score=score, groups=groups, name=name)
    return torch.where(mask, as_float32(x), 0.0)


def choose_mask(
    x: Tensor,
    pattern: str,
    *,
    axis: int = -1,
    score: Tensor | None = None,
    groups: int = 1,
    name: str = "tensor",
) -> Tensor:
    """Return a bool tensor, shape of ``x``, that is True where :func:`prune` keeps."""
    sparsity, layout = _find_groups(x, pattern, axis, groups)
    if score is not None and score.shape != x.shape:
        raise SchemeError(
            f"`score` must have the tensor's shape {tuple(x.shape)}, got {tuple(score.shape)}"
        )
    if x.numel() == 0:
        return torch.ones(x.shape, dtype=torch.bool, device=x.device)
    worth = as_float32((x if score is None else score).detach())
    finite_range(worth, name if score is None else f"score of {name}")
    units = layout.to_rows(worth).reshape(-1, sparsity.group // sparsity.unit, sparsity.unit)
    if score is None:
        units = units.square() if sparsity.unit > 1 else units.abs()
    scores = units.sum(-1)
    kept_units = sparsity.kept // sparsity.unit
    if dispatch.can_run(scores):
        kept = dispatch.keep_largest(scores, kept_units)
    else:
        order = scores.argsort(dim=-1, descending=True, stable=True)
        kept = torch.zeros(order.shape, dtype=torch.bool, device=x.device)
        kept.scatter_(1, order[:, :kept_units], True)
    mask = kept.unsqueeze(-1).expand(-1, -1, sparsity.unit)
    return layout.from_rows(mask.reshape(layout.rows, 1, -1))


def score_weights(
    weight: Tensor,
    *,
    gradient: Tensor | None = None,
    hessian_diagonal: Tensor | None = None,
    input_norms: Tensor | None = None,
) -> Tensor:
    """Return how much each weight is worth, by exactly one of the measures, for ``score`` of :func:`prune`.

    Args:
        weight: fp32 of any shape.
        gradient: dLoss/dweight, same shape: ``|w * g|`` (first-order).
        hessian_diagonal: Diagonal of the Hessian, broadcastable: ``0.5 * H * w²`` (second-order, OBD).
        input_norms: ``||x_j||_2`` of each input, broadcastable: ``|w| * ||x_j||`` (Wanda, arXiv 2306.11695).

    Raises:
        SchemeError: None or more than one of the measures is given.
    """
    measures = [m for m in (gradient, hessian_diagonal, input_norms) if m is not None]
    if len(measures) != 1:
        raise SchemeError(
            "exactly one of gradient, hessian_diagonal and input_norms must be given, "
            f"got {len(measures)}"
        )
    if hessian_diagonal is not None:
        return 0.5 * hessian_diagonal * weight.square()
    return (weight * measures[0]).abs()


def _find_groups(x: Tensor, pattern: str, axis: int, groups: int) -> tuple[Sparsity, Layout]:
    sparsity = parse_sparsity(pattern)
    layout = find_layout(tuple(x.shape), reduction_axis=axis, groups=groups)
    if layout.channels % sparsity.group:
        raise SchemeError(
            f"`size % {sparsity.group} == 0` must hold along the reduction for sparsity {pattern}, "
            f"but axis {axis} has {layout.channels} in each of {groups} group(s); choose a dense scheme for it"
        )
    return sparsity, layout
