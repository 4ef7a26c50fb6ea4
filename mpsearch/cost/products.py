"""Matrix products as arrays: sizes, padding and bytes of many kernels at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.formats import find_format
from mpsearch.graph.model import Gemm
from mpsearch.schemes import Scheme, Spec, parse_sparsity, stored_bits_of_many, thins
from mpsearch.stats.estimates import Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class Products:
    """N matrix products, each field an array [N] (see :class:`mpsearch.graph.model.Gemm`).

    Attributes:
        m: Rows.
        n: Columns, of all convolution groups together.
        k: Reduction of one group.
        positions: Kernel positions inside ``k``.
        groups: Convolution groups.
        calls: Independent runs.
        has_weight: Whether the right operand is a weight.
        input_elements: Elements of the activation tensor that is read.
        output_elements: Elements of the tensor that is written.
    """

    m: Ints
    n: Ints
    k: Ints
    positions: Ints
    groups: Ints
    calls: Ints
    has_weight: Bools
    input_elements: Ints
    output_elements: Ints

    @property
    def channels(self) -> Ints:
        """Elements of the reduction at one kernel position of one group."""
        return self.k // self.positions

    @property
    def macs(self) -> Ints:
        """Multiply-accumulates of a dense, unpadded product."""
        return self.m * self.n * self.k * self.calls


def collect(
    gemms: Sequence[Gemm], input_elements: Sequence[int], output_elements: Sequence[int]
) -> Products:
    """Return ``gemms`` as arrays."""
    rows = np.array(
        [(g.m, g.n, g.k, g.positions, g.groups, g.calls, g.has_weight) for g in gemms], np.int64
    ).reshape(-1, 7)
    m, n, k, positions, groups, calls, has_weight = rows.T
    return Products(
        m,
        n,
        k,
        positions,
        groups,
        calls,
        has_weight.astype(np.bool_),
        np.array(input_elements, np.int64),
        np.array(output_elements, np.int64),
    )


def padded_reduction(scheme: Scheme, products: Products) -> Ints:
    """Return K [N] with the channels of each kernel position padded to the block, which never crosses one.

    A depthwise layer pads 1 channel to a whole block; weight-only schemes compute in the activations'
    format, unpadded.
    """
    channels = products.channels
    shape = scheme.activation.block_shape
    if shape is not None and scheme.activation.granularity == "block":
        channels = -(-channels // shape[1]) * shape[1]
    return channels * products.positions


def right_bytes(scheme: Scheme, products: Products, *, pattern_bits: float | None = None) -> Floats:
    """Return the bytes [N] of the right operands: stored weights, or second activations.

    Args:
        scheme: Of the products.
        products: Their sizes.
        pattern_bits: Bits of the code of each sparse group; None: an index for each kept element.
    """
    elements: Floats = (products.calls * products.k * products.n).astype(np.float64)
    result = elements * element_bytes(scheme.activation)
    if not products.has_weight.any():
        return result
    bits = weight_bits(scheme, products, pattern_bits=pattern_bits)
    return np.where(products.has_weight, bits / 8, result)


def weight_bits(scheme: Scheme, products: Products, *, pattern_bits: float | None = None) -> Floats:
    """Return the stored bits [N] of the right operands as weights; reductions are padded to sparse groups."""
    n, positions, channels = products.n, products.positions, products.channels
    sparsity = scheme.sparsity
    if sparsity is not None:
        group = parse_sparsity(sparsity).group
        channels = -(-channels // group) * group  # a kernel pads; a space forbids it
    counted = stored_bits_of_many(scheme.weight, n, positions, channels, sparsity=sparsity)
    bits = np.broadcast_to(np.asarray(counted, np.float64), n.shape)
    if pattern_bits is None or sparsity is None or not thins(scheme.weight, sparsity):
        return bits
    groups = n * positions * channels // parse_sparsity(sparsity).group
    return bits + groups * (pattern_bits - parse_sparsity(sparsity).index_bits)


def element_bytes(spec: Spec) -> float:
    """Return the bytes that an element of an activation takes, block scales included."""
    scale = 0.0
    if spec.block_shape is not None and spec.scale_format is not None:
        scale = find_format(spec.scale_format).bits / (spec.block_shape[0] * spec.block_shape[1])
    return (spec.element.bits + scale) / 8
