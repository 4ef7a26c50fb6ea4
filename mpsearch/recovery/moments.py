"""What a layer reads on some data, as sums over positions: in the plan so far, and in the fp32 model beside it."""

from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from mpsearch.graph.model import Gemm, Node
from mpsearch.numerics.grids import as_float32
from mpsearch.program.operators.attributes import integers, text
from mpsearch.program.operators.convolution import same_pads
from mpsearch.recovery.obs import find_patches

CONVOLUTIONS = ("Conv", "ConvTranspose")
LINEAR = ("Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")

_TILE = 256
"""Columns of a Gram matrix that are computed together."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over n positions of what is multiplied with a weight W, for G groups of K columns and R rows, fp64.

    Attributes:
        gram: H [G, K, K] of the plan's inputs with themselves.
        lag: [G, R, K] of what W gives for the fp32 model's inputs and not for the plan's, with the plan's inputs: W (C - H), C being
            the fp32 model's inputs with the plan's.
        plan_sum: [G, K] of the plan's inputs.
        lag_sum: [G, R] of what W gives for the fp32 model's inputs and not for the plan's.
        count: n.
        power: Sum of squares of what W gives for the fp32 model's inputs; 0 where nobody asked.
        lag_power: The same of what it does not give for the plan's.
    """

    gram: Tensor
    lag: Tensor
    plan_sum: Tensor
    lag_sum: Tensor
    count: int
    power: float = 0.0
    lag_power: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both data together."""
        return Moments(
            self.gram + other.gram,
            self.lag + other.lag,
            self.plan_sum + other.plan_sum,
            self.lag_sum + other.lag_sum,
            self.count + other.count,
            self.power + other.power,
            self.lag_power + other.lag_power,
        )

    def centred(self) -> tuple[Tensor, Tensor]:
        """Return gram and lag of what is left when each column's mean is taken off: a bias makes up for means."""
        mean = self.plan_sum / self.count
        gram = self.gram - self.count * mean[:, :, None] * mean[:, None]
        return gram, self.lag - self.lag_sum[:, :, None] * mean[:, None]


def find_moments(
    plan_rows: Tensor, fp32_rows: Tensor, weight: Tensor, *, powers: bool = False
) -> Moments:
    """Return the moments of rows [G, n, K] of both; sums of one call are in fp32.

    Args:
        plan_rows: What the plan gives.
        fp32_rows: What the fp32 model gives.
        weight: [G · R, K].
        powers: Whether the powers are wanted.
    """
    G, n, K = plan_rows.shape
    own = weight.reshape(G, -1, K)
    R = own.shape[1]
    ones = torch.ones(1, 1, n, device=plan_rows.device)
    lacks = fp32_rows - plan_rows
    missed = lacks @ own.mT if powers or 2 * n * R < (n + R) * K else None
    if missed is not None and n * R < (n + R) * K:
        lag = missed.mT @ plan_rows
    else:
        lag = own @ (lacks.mT @ plan_rows)
    return Moments(
        _gram(plan_rows).double(),
        lag.double(),
        (ones @ plan_rows).squeeze(1).double(),
        (ones @ lacks @ own.mT).squeeze(1).double(),
        n,
        _power(fp32_rows @ own.mT) if powers else 0.0,
        _power(missed) if powers and missed is not None else 0.0,
    )


def _gram(rows: Tensor) -> Tensor:
    """XᵀX [G, K, K] of rows [G, n, K], half of it computed."""
    K = rows.shape[2]
    if K < 2 * _TILE:
        return rows.mT @ rows
    gram = rows.new_empty(len(rows), K, K)
    for first in range(0, K, _TILE):
        last = min(first + _TILE, K)
        gram[:, first:last, first:] = rows[:, :, first:last].mT @ rows[:, :, first:]
        gram[:, last:, first:last] = gram[:, first:last, last:].mT
    return gram


def _power(product: Tensor) -> float:
    return float(product.square().sum(dtype=torch.float64))


def read_rows(
    node: Node,
    gemm: Gemm,
    x: Tensor,
    weight: Tensor,
    *,
    kept: Tensor | None = None,
    most: int = 0,
    turn: int = 0,
) -> Tensor:
    """Return what a layer multiplies its weight with, as rows [G, n, K]; K as in the weight's layout.

    Args:
        node: A convolution, Gemm or MatMul; of a recurrent one its first product.
        gemm: Its product.
        x: What it reads.
        weight: The weight as the node reads it.
        kept: bool [samples, positions] of those that count; None: all.
        most: Positions of a convolution that are enough; see :func:`mpsearch.recovery.obs.find_patches`.
        turn: With other numbers others are taken.
    """
    x = as_float32(x.detach())
    if node.op_type in CONVOLUTIONS:
        return _patches(node, gemm, x, weight, most, turn)
    if kept is not None and x.ndim > 2 and x.shape[:2] == kept.shape:
        return x.movedim(gemm.left.reduction_axis, -1)[kept].flatten(0, -2).unsqueeze(0)
    rows = x.movedim(gemm.left.reduction_axis, -1)
    if gemm.groups > 1 and rows.ndim > 2 and rows.shape[-3] == gemm.groups:
        return rows.movedim(-3, 0).flatten(1, -2)
    return rows.flatten(0, -2).unsqueeze(0)


def _patches(node: Node, gemm: Gemm, x: Tensor, weight: Tensor, most: int, turn: int) -> Tensor:
    rank = weight.ndim - 2
    kernel = tuple(weight.shape[2:])
    strides = tuple(integers(node, "strides") or [1] * rank)
    spread = tuple(integers(node, "dilations") or [1] * rank)
    pads, auto = integers(node, "pads") or [0] * 2 * rank, text(node, "auto_pad", "NOTSET")
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    if auto == "VALID":
        pads = [0] * 2 * rank
    elif auto != "NOTSET":
        pads = same_pads(list(x.shape[2:]), extents, list(strides), auto == "SAME_UPPER")
    ends = tuple((pads[i], pads[rank + i]) for i in range(rank))
    if node.op_type == "ConvTranspose":
        # a convolution of the input with zeros between its elements, the kernel turned round
        extra = integers(node, "output_padding") or [0] * rank
        x = _spread_out(x, strides)
        ends = tuple(
            (extent - 1 - before, extent - 1 - after + more)
            for extent, (before, after), more in zip(extents, ends, extra, strict=True)
        )
        strides = (1,) * rank
    rows = find_patches(
        x,
        kernel=kernel,
        strides=strides,
        pads=ends,
        dilations=spread,
        groups=gemm.groups,
        most=most,
        turn=turn,
    )
    if node.op_type != "ConvTranspose":
        return rows
    turned = rows.unflatten(2, (*kernel, -1)).flip(tuple(range(2, 2 + rank)))
    return turned.flatten(2)


def _spread_out(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """``x`` [N, C, *spatial] with zeros between its elements."""
    sizes = [(n - 1) * stride + 1 for n, stride in zip(x.shape[2:], strides, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *sizes)
    places: list[slice | EllipsisType] = [..., *(slice(None, None, n) for n in strides)]
    spread[tuple(places)] = x
    return spread
