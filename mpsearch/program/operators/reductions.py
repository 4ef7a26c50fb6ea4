"""Reductions along axes, and running sums."""

from collections.abc import Callable

import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, integers, read

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _extreme(function: Callable[..., Tensor], largest: bool) -> _Reduction:
    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.numel():
            return function(x, axes, keep)
        if x.dtype == torch.bool:
            fill: float | int | bool = not largest
        elif x.is_floating_point():
            fill = float("-inf") if largest else float("inf")
        else:
            fill = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
        return torch.full_like(x.sum(axes, keep, dtype=x.dtype), fill)

    return reduce


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.mean(axes, keep) if x.is_floating_point() else x.double().mean(axes, keep).to(x.dtype)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, axes, keep)
    return x.double().square().sum(axes, keep).sqrt().to(x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.logsumexp(x, axes, keep)
    return torch.logsumexp(x.double(), axes, keep).to(x.dtype)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep).log().to(x.dtype)


def _reduction(function: _Reduction) -> Builder:
    def build(node: Node) -> Kernel:
        keep, fixed = bool(integer(node, "keepdims", 1)), integers(node, "axes")
        identity_if_empty = bool(integer(node, "noop_with_empty_axes", 0))

        def kernel(x: Tensor, axes: Tensor | None = None) -> Tensor:
            chosen = fixed if axes is None else read(axes)
            if not chosen:
                if identity_if_empty:
                    return pointwise(x)
                chosen = list(range(x.ndim))
            return function(x, chosen, keep) if chosen else pointwise(x)

        def pointwise(x: Tensor) -> Tensor:
            """Reduce over no axis: what the operator does to each element alone."""
            return function(x.unsqueeze(-1), [-1], False)

        return kernel

    return build


def _arg(function: Callable[..., Tensor]) -> Builder:
    def build(node: Node) -> Kernel:
        axis, keep = integer(node, "axis", 0), bool(integer(node, "keepdims", 1))
        last = bool(integer(node, "select_last_index", 0))

        def kernel(x: Tensor) -> Tensor:
            if last:
                flipped = function(x.flip(axis), dim=axis, keepdim=keep)
                return x.shape[axis] - 1 - flipped
            return function(x, dim=axis, keepdim=keep)

        return kernel

    return build


def _running(function: Callable[..., Tensor], neutral: int) -> Builder:
    def build(node: Node) -> Kernel:
        exclusive, reverse = integer(node, "exclusive", 0), integer(node, "reverse", 0)

        def kernel(x: Tensor, axis: Tensor) -> Tensor:
            along = int(axis.reshape(-1)[0].item())
            if reverse:
                x = x.flip(along)
            if exclusive:
                first = torch.full_like(x.narrow(along, 0, 1), neutral)
                x = torch.cat([first, x.narrow(along, 0, x.shape[along] - 1)], along)
            total = function(x, along, dtype=x.dtype)
            return total.flip(along) if reverse else total

        return kernel

    return build


BUILDERS: dict[str, Builder] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumProd": _running(torch.cumprod, 1),
    "CumSum": _running(torch.cumsum, 0),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype)),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_extreme(torch.amax, True)),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_extreme(torch.amin, False)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype)),
}
