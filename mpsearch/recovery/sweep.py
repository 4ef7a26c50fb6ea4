"""Columns of a weight fixed one after another, each error made up for by the columns that follow.

Weights are [G, K, R] here: of G convolution groups, K columns (the reduction) of R rows each, in fp64. The objective is
each row's ``(w' - w) H (w' - w)ᵀ`` with H [G, K, K] = XᵀX + λ I of what the layer reads (GPTQ, arXiv 2210.17323; SparseGPT,
arXiv 2301.00774).
"""

from collections.abc import Callable

import torch
from torch import Tensor

_LEAF = 16
"""Columns that are updated one by one; of halves above that, the second is updated at once."""

_TRIANGLE = 128
"""Columns of a triangular matrix that are inverted at once."""

_PROBES, _INEXACT = 4, 1e-2
"""Vectors that a factor in fp32 is tried on, and what of them may be left."""

Fix = Callable[[Tensor, int], Tensor]
"""(wanted [G, R], column) to the values that the column takes, a tensor of its own."""
Select = Callable[[Tensor, int], None]
"""(wanted [G, unit, R], first column) is told of each unit of columns before any of them is fixed."""


def damp(gram: Tensor, damping: float) -> Tensor:
    """Return the positive definite ``H + damping * mean(diagonal) * I``, even of a matrix of zeros."""
    amount = damping * gram.diagonal(dim1=1, dim2=2).mean(1) + torch.finfo(torch.float32).tiny
    return gram + torch.diag_embed(amount[:, None].expand(-1, gram.shape[1]))


def factorize(gram: Tensor, damping: float) -> Tensor:
    """Return U [G, K, K], upper triangular with ``UᵀU`` = the damped inverse, with as much damping as it takes.

    In fp32 where that is what ``gram`` is in and it is exact enough, in fp64 else.
    """
    while True:
        damped = damp(gram, damping)
        lower, failed = torch.linalg.cholesky_ex(damped.flip(1, 2))
        if not bool(failed.any()):
            # H = M Mᵀ with M upper triangular, so that M⁻¹ is the factor of the inverse.
            factor = _invert(lower.flip(1, 2))
            if gram.dtype == torch.float64 or _inverts(factor, damped):
                return factor
        if gram.dtype == torch.float32:
            return factorize(gram.double(), damping).float()
        damping = max(10 * damping, 1e-8)


def _invert(upper: Tensor) -> Tensor:
    """Return the inverse of upper triangular matrices [G, K, K], by halves."""
    K = upper.shape[1]
    if K <= _TRIANGLE:
        identity = torch.eye(K, dtype=upper.dtype, device=upper.device)
        return torch.linalg.solve_triangular(upper, identity, upper=True)
    half = K // 2
    found = torch.zeros_like(upper)
    first, second = _invert(upper[:, :half, :half]), _invert(upper[:, half:, half:])
    found[:, :half, :half], found[:, half:, half:] = first, second
    found[:, :half, half:] = -(first @ upper[:, :half, half:] @ second)
    return found


def _inverts(factor: Tensor, damped: Tensor) -> bool:
    """Whether the product of the factor's inverse and the matrix leaves vectors nearly as they are."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(damped.shape[1], _PROBES, generator=generator).to(damped)
    left = damped @ (factor.mT @ (factor @ probes)) - probes
    return float(left.norm()) <= _INEXACT * float(probes.norm()) * len(damped) ** 0.5


def sweep(
    columns: Tensor, factor: Tensor, fix: Fix, *, unit: int = 1, select: Select | None = None
) -> Tensor:
    """Return the fixed columns [G, K, R] of one pass.

    Args:
        columns: [G, K, R] what is wanted; it is overwritten.
        factor: Of :func:`factorize`.
        fix: Gives a column its values.
        unit: Columns that ``select`` sees together; K is a multiple.
        select: Told of each unit.
    """
    K = columns.shape[1]
    fixed = torch.empty_like(columns)
    errors = torch.empty_like(columns)
    leaf = max(_LEAF // unit, 1) * unit
    wanted, found, lost = columns.unbind(1), fixed.unbind(1), errors.unbind(1)
    scales = _diagonal(factor)

    def go(first: int, last: int) -> None:
        if last - first > leaf:
            half = first + max((last - first) // 2 // leaf, 1) * leaf
            go(first, half)
            columns[:, half:last].baddbmm_(
                factor[:, first:half, half:last].mT, errors[:, first:half], alpha=-1
            )
            go(half, last)
            return
        inner = factor[:, first:last, first:last, None].unbind(1)
        for at in range(first, last):
            if select is not None and at % unit == 0:
                select(columns[:, at : at + unit], at)
            found[at].copy_(fix(wanted[at], at))
            torch.sub(wanted[at], found[at], out=lost[at]).div_(scales[at])
            if at + 1 < last:
                columns[:, at + 1 : last].baddbmm_(
                    inner[at - first][:, at + 1 - first :], lost[at][:, None], alpha=-1
                )

    go(0, K)
    return fixed


def descend(columns: Tensor, fixed: Tensor, damped: Tensor, fix: Fix) -> Tensor:
    """Return ``fixed`` after one pass of coordinate descent: no row's objective rises.

    Args:
        columns: [G, K, R] what was wanted.
        fixed: [G, K, R] what it became.
        damped: [G, K, K] H of the objective.
        fix: Gives a column the nearest values that it may take.
    """
    result = fixed.clone()
    errors = fixed - columns
    K = columns.shape[1]
    now, scales = result.unbind(1), _diagonal(damped)
    for first in range(0, K, 4 * _LEAF):
        last = min(first + 4 * _LEAF, K)
        pull = damped[:, first:last] @ errors
        pulls = pull.unbind(1)
        inner = damped[:, first:last, first:last, None].unbind(2)
        for at in range(first, last):
            wanted = torch.addcdiv(now[at], pulls[at - first], scales[at], value=-1)
            moved = fix(wanted, at).sub_(now[at])
            now[at].add_(moved)
            if at + 1 < last:
                after = at + 1 - first
                pull[:, after:].baddbmm_(inner[at - first][:, after:], moved[:, None])
        errors[:, first:last] = result[:, first:last] - columns[:, first:last]
    return result


def _diagonal(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return the K diagonal elements of ``matrix`` [G, K, K], each [G, 1]."""
    return matrix.diagonal(dim1=1, dim2=2)[:, :, None].unbind(1)
