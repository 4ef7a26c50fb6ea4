"""Products whose partial sums are kept in a narrow format, as the accumulators of some processors are.

The reduction is cut into chunks as the kernel walks it: kernel positions, and inside each its channels. The products of
a chunk are summed exactly (fp32); that sum is rounded to the accumulator's format and added to it, rounded again.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.graph.model import Gemm, Layer
from mpsearch.notations import Accumulator
from mpsearch.numerics.quantize import fake_quantize
from mpsearch.program.operators.attributes import Kernel


def run_in_chunks(
    layer: Layer, kernel: Kernel, inputs: Sequence[Tensor | None], accumulator: Accumulator
) -> Tensor:
    """Return the output of a layer whose sums are kept in ``accumulator``.

    Args:
        layer: One of :data:`mpsearch.space.allowed.ACCUMULATES`.
        kernel: Its kernel.
        inputs: Of its node, quantised already; the third is a bias, added to the accumulator last.
        accumulator: Format and chunk.

    Raises:
        NumericsError: A partial sum overflows.
    """
    gemm = layer.gemms[0]

    def add(total: Tensor | None, part: Tensor) -> Tensor:
        if total is not None:
            part = total + _round(part, accumulator, layer)
        return _round(part, accumulator, layer)

    total: Tensor | None = None
    for left, right in _cut(gemm, inputs, accumulator.chunk):
        own: list[Tensor | None] = [None] * len(inputs)
        own[gemm.left.input_index], own[gemm.right.input_index] = left, right
        total = add(total, kernel(*own[:2]))
        last = own
    if len(inputs) > 2 and inputs[2] is not None:
        nothing = [None if x is None else torch.zeros_like(x) for x in last[:2]]
        total = add(total, kernel(*nothing, inputs[2]))
    assert total is not None
    return total


def _cut(
    gemm: Gemm, inputs: Sequence[Tensor | None], chunk: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both operands of each chunk: channels cut out, other kernel positions zero."""
    left, right = inputs[gemm.left.input_index], inputs[gemm.right.input_index]
    assert left is not None
    assert right is not None
    axis, across = gemm.left.reduction_axis % left.ndim, gemm.right.reduction_axis % right.ndim
    groups = gemm.left.groups
    channels = left.shape[axis] // groups
    grouped = left.unflatten(axis, (groups, channels))
    for position in _positions(gemm, right):
        for first in range(0, channels, chunk):
            count = min(chunk, channels - first)
            x = grouped.narrow(axis + 1, first, count).flatten(axis, axis + 1)
            w = right.narrow(across, first, count)
            yield x, w if position is None else w * position


def _positions(gemm: Gemm, right: Tensor) -> Iterator[Tensor | None]:
    """Yield a mask of each kernel position, one where the weight has one only."""
    if gemm.positions == 1:
        yield None
        return
    kept = {axis % right.ndim for axis in (gemm.right.reduction_axis, *gemm.right.channel_axes)}
    shape = [1 if axis in kept else size for axis, size in enumerate(right.shape)]
    for index in product(*map(range, shape)):
        mask = torch.zeros(shape, dtype=right.dtype, device=right.device)
        mask[index] = 1
        yield mask


def _round(x: Tensor, accumulator: Accumulator, layer: Layer) -> Tensor:
    rounded = fake_quantize(x, accumulator.format, name=f"{layer.name}: partial sums").to(x.dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise NumericsError(
            f"layer {layer.name!r}: partial sums must fit {accumulator.format}, but they reach {float(x.detach().abs().amax()):.3g}"
        )
    return rounded
