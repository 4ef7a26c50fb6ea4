"""A weight as its format stores it: the one value that simulation, export and sizes are made from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.numerics.layout import Layout
from mpsearch.numerics.scales import steps_of
from mpsearch.numerics.tiles import cut_tiles, join_tiles
from mpsearch.schemes import Scheme, Spec, stored_bits


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """Codes and all that gives them their values; made by :func:`mpsearch.numerics.quantize.quantize_weight`.

    Attributes:
        spec: What it is stored in.
        layout: View of the tensor as [R rows, P positions, C channels].
        codes: [R, P, C] elements in units of their step, fp32 but exact in the element format; zero where pruned.
        scales: [A, P, B] stored scales, fp32 but exact in the scale format: of A row blocks and B channel
            blocks. A spec per tensor or channel has P = B = 1; a cast has none.
        zeros: [A, P, B] zero points of asymmetric integers, else None.
        tensor_scale: What the scales are relative to (nvfp4); 1 for others.
        sparsity: Pattern that it was pruned to, or None.
        mask: bool [R, P, C], True at the elements that the pattern keeps; None where dense.
    """

    spec: Spec
    layout: Layout
    codes: Tensor
    scales: Tensor | None = None
    zeros: Tensor | None = None
    tensor_scale: float = 1.0
    sparsity: str | None = None
    mask: Tensor | None = None

    def dequantize(self) -> Tensor:
        """Return the values that the codes stand for: fp32, contiguous, in the tensor's own shape."""
        if self.scales is None:
            return self.layout.from_rows(self.codes)
        tiles = cut_tiles(self.codes, self.spec)
        if self.zeros is not None:
            tiles = tiles - _add_tile_axes(self.zeros)
        steps = steps_of(_add_tile_axes(self.scales), self.spec, self.tensor_scale)
        shape = (self.layout.rows, self.layout.positions, self.layout.channels)
        return self.layout.from_rows(join_tiles(tiles * steps, shape))

    def is_stored_as(self, scheme: Scheme) -> bool:
        """Return whether ``scheme`` stores weights like this one; how scales are chosen may differ."""
        return _storage(self.spec) == _storage(scheme.weight) and self.sparsity == scheme.sparsity

    def is_same(self, other: "QuantizedTensor") -> bool:
        """Return whether another one stores the same, bit by bit."""
        if self is other:
            return True
        mine, its = ((q.codes, q.scales, q.zeros, q.mask) for q in (self, other))
        return (
            (self.spec, self.layout, self.tensor_scale, self.sparsity)
            == (other.spec, other.layout, other.tensor_scale, other.sparsity)
        ) and all(
            (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
            for a, b in zip(mine, its, strict=True)
        )

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, scales, zero points, tensor scale and the indices of kept elements."""
        layout = self.layout
        bits = stored_bits(
            self.spec, layout.rows, layout.positions, layout.channels, sparsity=self.sparsity
        )
        return -(-bits // 8)


def _storage(spec: Spec) -> tuple[object, ...]:
    scales = spec.granularity, spec.block_shape, spec.scale_format, spec.tensor_scale
    return spec.format, spec.symmetric, *scales


def drop_tile_axes(per_tile: Tensor) -> Tensor:
    """Return [A, 1, P, B, 1] without the axes inside a tile."""
    return per_tile[:, 0, :, :, 0].contiguous()


def _add_tile_axes(per_tile: Tensor) -> Tensor:
    return per_tile[:, None, :, :, None]
