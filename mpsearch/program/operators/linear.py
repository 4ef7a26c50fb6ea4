"""Matrix products."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import (
    Builder,
    Kernel,
    constant_kernel,
    integer,
    number,
    text,
)


def _gemm(node: Node) -> Kernel:
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
    turn_a, turn_b = integer(node, "transA", 0), integer(node, "transB", 0)
    integer_safe = alpha == int(alpha) and beta == int(beta)

    def kernel(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        if not a.is_floating_point() and integer_safe:
            product = int(alpha) * ((a.T if turn_a else a) @ (b.T if turn_b else b))
            return product if c is None else product + int(beta) * c
        a = a.T if turn_a else a
        b = b.T if turn_b else b
        simple = alpha == 1.0 and (c is None or (beta == 1.0 and c.shape == b.shape[1:]))
        if simple and _is_fast(a, b, c):
            return _linear(a, b.T, c)
        if c is not None:
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        product = a @ b
        return product if alpha == 1.0 else alpha * product

    return kernel


def _einsum(node: Node) -> Kernel:
    equation = text(node, "equation", "").replace(" ", "")
    return lambda *operands: torch.einsum(equation, *operands)


def _find_linear() -> Callable[..., Tensor] | None:
    """Return oneDNN's linear layer, which torch keeps for its compiler; None where torch lacks it."""
    try:
        return cast(Callable[..., Tensor], torch.ops.mkldnn._linear_pointwise.default)
    except (AttributeError, RuntimeError):
        return None


_ONEDNN = _find_linear()
_ROWS, _WORTH = 8, 1 << 18  # fewer rows or multiplications do not pay for packing the weight


def _is_fast(a: Tensor, b: Tensor, c: Tensor | None) -> bool:
    """Whether oneDNN multiplies these faster than BLAS: twice as fast on AMD, as fast on Intel."""
    tensors = (a, b) if c is None else (a, b, c)
    return (
        _ONEDNN is not None
        and b.ndim == 2
        and a.ndim >= 2
        and a.numel() >= _ROWS * b.shape[0]
        and a.numel() * b.shape[1] >= _WORTH
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )


def _linear(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a · weightᵀ + bias, with ``weight`` as [out, in]."""
    assert _ONEDNN is not None  # _is_fast has looked
    return _ONEDNN(a, weight, bias, "none", [], "")


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return _linear(a, b.T, None) if _is_fast(a, b, None) else torch.matmul(a, b)


def along_last(zero_point: Tensor | None, rank: int, axis: int) -> Tensor | int:
    """Return a zero point that broadcasts along ``axis`` of a tensor of ``rank``, widened."""
    if zero_point is None:
        return 0
    wide = zero_point.to(torch.int32)
    if wide.ndim != 1 or wide.numel() == 1:
        return wide
    shape = [1] * rank
    shape[axis] = -1
    return wide.reshape(shape)


def _matmul_integer(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    left = a.to(torch.int32) - along_last(a_zero, a.ndim, a.ndim - 2)
    right = b.to(torch.int32) - along_last(b_zero, b.ndim, b.ndim - 1)
    # float64 holds every product and sum of 8-bit integers exactly, and is fast
    return torch.matmul(left.double(), right.double()).to(torch.int32)


def _qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    total = _matmul_integer(a, b, a_zero, b_zero).double()
    if a_scale.numel() > 1:
        a_scale = a_scale.unsqueeze(-1) if a_scale.ndim < a.ndim else a_scale
    scale = a_scale.double() * b_scale.double() / y_scale.double()
    limits = torch.iinfo(y_zero.dtype)
    return torch.clamp(torch.round(total * scale) + y_zero.double(), limits.min, limits.max).to(
        y_zero.dtype
    )


BUILDERS: dict[str, Builder] = {
    "Det": constant_kernel(torch.linalg.det),
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": constant_kernel(_matmul),
    "MatMulInteger": constant_kernel(_matmul_integer),
    "QLinearMatMul": constant_kernel(_qlinear_matmul),
}
