"""Recovery of pruned weights without training: optimal brain surgeon in the layer's input Gram matrix.

Kept weights w' of a row minimise ``(w' - w) (H + λ I) (w' - w)ᵀ`` with H = XᵀX: the layer's squared output error on the
inputs X that it was calibrated with. Masks come from a column-wise sweep (SparseGPT, arXiv 2301.00774); the weights
then from conjugate gradients over all rows at once, which end at the least-squares optimum of the mask.
"""

from math import prod

import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.numerics.grids import as_float32
from mpsearch.numerics.layout import find_layout
from mpsearch.numerics.sparsity import choose_mask
from mpsearch.recovery.gptq import check_gram, select
from mpsearch.recovery.sweep import damp, factorize

_SWEEP_DAMPING = 1e-3
"""Least damping of a sweep, which inverts the Gram matrix; the weights themselves need less."""

_STEPS = 200
_TOLERANCE = 1e-4
"""Conjugate gradients end when the residual's power falls to this share of the row's error."""


def recover(
    weight: Tensor,
    selection: str | Tensor,
    gram: Tensor,
    *,
    reduction_axis: int,
    channel_axes: tuple[int, ...],
    groups: int = 1,
    damping: float = 1e-4,
    name: str = "weight",
) -> Tensor:
    """Return the pruned weight whose kept elements make up for the pruned ones.

    In the layer's output error ``tr((w' - w) H (w' - w)ᵀ)`` no row is worse than magnitude pruning of the same
    pattern (a given mask: than the masked weight).

    Args:
        weight: fp32, as :func:`mpsearch.numerics.quantize.quantize_weight` takes it.
        selection: A pattern (``2:4``), whose mask is chosen here, or a bool mask of the weight's shape, True at
            kept elements.
        gram: XᵀX of the layer's inputs, [K, K], or [G, K, K] for G convolution groups of consecutive rows. K runs over
            kernel positions and, inside each, channels (:func:`find_gram`, :func:`find_patch_gram`).
        reduction_axis: Axis along which sparse groups run.
        channel_axes: Axes that together index output channels.
        groups: Convolution groups that the reduction axis spans (transposed convolutions).
        damping: λ as a fraction of the mean diagonal of H.
        name: What an error calls the weight.

    Returns:
        fp32, shape of ``weight``, zero where pruned.

    Raises:
        SchemeError: The shapes do not fit, the pattern is unknown, or its group does not divide the channels.
        NumericsError: The weight or the Gram matrix holds NaN or Inf.
    """
    layout = find_layout(
        tuple(weight.shape),
        reduction_axis=reduction_axis,
        channel_axes=channel_axes,
        groups=groups,
    )
    hessian = check_gram(gram.to(weight.device), layout, name)
    K = layout.positions * layout.channels
    rows = layout.to_rows(as_float32(weight.detach())).reshape(len(hessian), -1, K).double()
    if isinstance(selection, str):
        mask = choose_mask(weight, selection, axis=reduction_axis, groups=groups, name=name)
    else:
        mask = selection
    if mask.shape != weight.shape:
        raise SchemeError(
            f"the mask of {name} must have its shape {tuple(weight.shape)}, got {tuple(mask.shape)}"
        )
    damped = damp(hessian, damping)
    kept = layout.to_rows(mask).reshape(rows.shape)
    if isinstance(selection, str):
        factor = factorize(hessian, max(damping, _SWEEP_DAMPING))
        swept, swept_kept = (x.mT for x in select(rows.mT.contiguous(), factor, selection))
        best = _refit(rows, swept_kept, swept, damped)
        worse = _error(best, rows, hessian) >= _error(rows * kept, rows, hessian)
        if bool(worse.any()):  # then the magnitude's own mask, refitted, cannot be
            best[worse] = _refit(rows, kept, rows * kept, damped)[worse]
    else:
        best = _refit(rows, kept, rows * kept, damped)
    recovered = best.float().reshape(layout.rows, layout.positions, layout.channels)
    return layout.from_rows(recovered)


def find_gram(x: Tensor, *, reduction_axis: int = -1) -> Tensor:
    """Return XᵀX [1, K, K] in fp64 of a GEMM's activations: every other axis counts samples.

    Gram matrices of batches add up to that of all data.
    """
    rows = as_float32(x.detach()).movedim(reduction_axis, -1).flatten(0, -2)
    return (rows.T @ rows).double().unsqueeze(0)


def find_patch_gram(
    x: Tensor,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int = 1,
) -> Tensor:
    """Return XᵀX [groups, K, K] in fp64 of what :func:`find_patches` returns."""
    rows = find_patches(
        x, kernel=kernel, strides=strides, pads=pads, dilations=dilations, groups=groups
    )
    return (rows.transpose(1, 2) @ rows).double()


def find_patches(
    x: Tensor,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int = 1,
    most: int = 0,
    turn: int = 0,
) -> Tensor:
    """Return the patches that a convolution multiplies its weight with, [groups, N × output positions, K].

    Args:
        x: [N, C, *spatial].
        kernel: Kernel size of each spatial axis.
        strides: Of each spatial axis.
        pads: (before, after) of each spatial axis, zeros.
        dilations: Of each spatial axis.
        groups: Convolution groups.
        most: Output positions of all samples that are enough: others are left out along the last spatial axis,
            where a quarter of it or four remain; 0: all are taken.
        turn: With other numbers others are left out.

    Returns:
        K = prod(kernel) × C / groups, channels innermost, as blocks and sparse groups run.
    """
    d = len(kernel)
    flat = [amount for before, after in reversed(pads) for amount in (before, after)]
    patches = as_float32(x.detach())
    if any(flat):
        patches = torch.nn.functional.pad(patches, flat)
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        patches = patches.unfold(axis + 2, dilation * (size - 1) + 1, stride)[..., ::dilation]
    N, C = x.shape[:2]
    if most:
        skip = max(1, min(N * prod(patches.shape[2 : 2 + d]) // most, patches.shape[1 + d] // 4))
        patches = patches[(slice(None),) * (1 + d) + (slice(turn % skip, None, skip),)]
    patches = patches.unflatten(1, (groups, C // groups))
    outputs, kernels = range(3, 3 + d), range(3 + d, 3 + 2 * d)
    rows = patches.permute(1, 0, *outputs, *kernels, 2)
    return rows.reshape(groups, -1, prod(kernel) * (C // groups))


def _error(rows: Tensor, original: Tensor, hessian: Tensor) -> Tensor:
    """Return the squared output error [G, R] of each row."""
    change = rows - original
    return ((change @ hessian) * change).sum(-1)


def _refit(rows: Tensor, kept: Tensor, start: Tensor, damped: Tensor) -> Tensor:
    """Return the least-squares optimum of the mask, by preconditioned conjugate gradients from ``start``.

    Args:
        rows: [G, R, K] original weights.
        kept: [G, R, K] bool.
        start: [G, R, K], zero outside the mask.
        damped: [G, K, K] positive definite.
    """
    inverse = 1 / damped.diagonal(dim1=1, dim2=2).unsqueeze(1)
    solution = start.clone()
    change = rows - solution
    image = change @ damped
    enough = _TOLERANCE * (image * change).sum(-1, keepdim=True)
    residual = image * kept
    scaled = residual * inverse
    direction = scaled.clone()
    power = (residual * scaled).sum(-1, keepdim=True)
    for _ in range(_STEPS):
        if bool((power <= enough).all()):
            break
        image = (direction @ damped).mul_(kept)
        curvature = (direction * image).sum(-1, keepdim=True)
        step = torch.where(curvature > 0, power / curvature, 0.0)
        solution += step * direction
        residual -= step * image
        scaled = residual * inverse
        previous, power = power, (residual * scaled).sum(-1, keepdim=True)
        direction = scaled + torch.where(previous > 0, power / previous, 0.0) * direction
    return solution
