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


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over n positions of what is multiplied with a weight, for G groups of K columns, fp64.

    Attributes:
        gram: [G, K, K] of the plan's inputs with themselves.
        cross: [G, K, K] of the fp32 model's (rows) with the plan's (columns).
        plan_sum: [G, K] of the plan's inputs.
        fp32_sum: [G, K] of the fp32 model's.
        count: n.
        power: Sum of squares of the fp32 model's product; 0 where nobody asked.
    """

    gram: Tensor
    cross: Tensor
    plan_sum: Tensor
    fp32_sum: Tensor
    count: int
    power: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both data together."""
        return Moments(
            self.gram + other.gram,
            self.cross + other.cross,
            self.plan_sum + other.plan_sum,
            self.fp32_sum + other.fp32_sum,
            self.count + other.count,
            self.power + other.power,
        )

    def centred(self) -> tuple[Tensor, Tensor]:
        """Return gram and cross of what is left when each column's mean is taken off: a bias makes up for means."""
        plan, fp32 = self.plan_sum / self.count, self.fp32_sum / self.count
        gram = self.gram - self.count * plan[:, :, None] * plan[:, None]
        cross = self.cross - self.count * fp32[:, :, None] * plan[:, None]
        return gram, cross


def find_moments(plan_rows: Tensor, fp32_rows: Tensor, weight: Tensor | None = None) -> Moments:
    """Return the moments of rows [G, n, K] of both; with a weight [R, K] also the power of its product."""
    ones = torch.ones(1, 1, plan_rows.shape[1], device=plan_rows.device)
    return Moments(
        (plan_rows.mT @ plan_rows).double(),
        (fp32_rows.mT @ plan_rows).double(),
        (ones @ plan_rows).squeeze(1).double(),
        (ones @ fp32_rows).squeeze(1).double(),
        plan_rows.shape[1],
        0.0 if weight is None else _power(fp32_rows, weight),
    )


def _power(rows: Tensor, weight: Tensor) -> float:
    own = weight.reshape(len(rows), -1, weight.shape[1])
    return float((rows @ own.mT).square().sum(dtype=torch.float64))


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
