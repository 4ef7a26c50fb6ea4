"""How an exporter stores weights, where that is not as their scheme says."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from mpsearch.schemes import Granularity, Scheme, Spec, parse_sparsity, stored_bits_of_many

_PLAIN = Spec("fp32", scale_format=None)


@dataclass(frozen=True, slots=True)
class Storage:
    """What the files of a target hold of a weight; every default is what the canonical export does.

    Attributes:
        counted: ``file``: the bytes that the exporter writes; ``converted``: those that the consumer's own converter
            makes of them, where the exporter leaves weights in the model's type and writes how to round them.
        sparse: ``packed``: kept elements and their places; ``dense``: the zeros too.
        pattern_bits: Bits of the code of each group of a packed sparse weight; None: a place for each kept element.
        blocks: ``short``: the last block of a narrow reduction ends where the channels do; ``whole``: it is padded.
        elements: Pairs of a format of elements and the one that they are stored in.
        scales: Pairs of a format of scales and the one that they are stored in.
        zero_points: Granularities of symmetric integers that have a stored zero point beside each scale.
        decoded: Granularities whose weights are stored as fp32 numbers, their codes multiplied with their scales;
            ``sparse`` adds pruned casts.
        word_bits: What codes of weight-only integers along one row of the reduction are padded to.
        kept: What operators read of decided weights that are no layers: ``own``: in the model's type; ``base``: in the base's.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    counted: Literal["file", "converted"] = "file"
    sparse: Literal["packed", "dense"] = "packed"
    pattern_bits: int | None = None
    blocks: Literal["short", "whole"] = "short"
    elements: tuple[tuple[str, str], ...] = ()
    scales: tuple[tuple[str, str], ...] = ()
    zero_points: tuple[Granularity, ...] = ()
    decoded: tuple[Granularity | Literal["sparse"], ...] = ()
    word_bits: int = 1
    kept: Literal["own", "base"] = "own"


CANONICAL = Storage()
"""What plain ONNX holds."""


def stored_weight_bits(
    storage: Storage, scheme: Scheme, rows: Any, positions: Any, channels: Any
) -> Any:
    """Return the bits that a weight of ``rows`` × ``positions`` × ``channels`` elements takes, numbers or arrays of them.

    A reduction that holds no whole groups of the scheme's sparsity is padded to them, as kernels do.
    """
    spec, sparsity = scheme.weight, scheme.sparsity
    if sparsity is not None:
        group = parse_sparsity(sparsity).group
        channels = -(-channels // group) * group
    if is_decoded(storage, scheme):
        return stored_bits_of_many(_PLAIN, rows, positions, channels)
    if storage.blocks == "whole" and spec.block_shape is not None:
        channels = -(-channels // spec.block_shape[1]) * spec.block_shape[1]
    if storage.sparse == "dense":
        sparsity = None
    spec = stored_spec(storage, spec)
    bits = stored_bits_of_many(spec, rows, positions, channels, sparsity=sparsity)
    if sparsity is not None and storage.pattern_bits is not None:
        pattern = parse_sparsity(sparsity)
        groups = rows * positions * channels // pattern.group
        bits = bits + groups * (storage.pattern_bits - pattern.index_bits)
    if spec.element.kind == "int":
        if scheme.is_weight_only:
            word = max(storage.word_bits // spec.element.bits, 1)
            bits = bits + rows * positions * (-channels % word) * spec.element.bits
        if spec.granularity in storage.zero_points and spec.symmetric:
            scales = 1 if spec.granularity == "tensor" else rows
            bits = bits + scales * spec.element.bits
    return bits


def is_decoded(storage: Storage, scheme: Scheme) -> bool:
    """Return whether a scheme's weights are stored as numbers, without scales."""
    spec = scheme.weight
    if spec.is_cast:
        return "sparse" in storage.decoded and scheme.sparsity is not None
    return spec.granularity in storage.decoded


def stored_spec(storage: Storage, spec: Spec) -> Spec:
    """Return ``spec`` with the formats that its elements and scales are stored in."""
    element = dict(storage.elements).get(spec.format, spec.format)
    scale = spec.scale_format
    if scale is not None:
        scale = dict(storage.scales).get(scale, scale)
    if (element, scale) == (spec.format, spec.scale_format):
        return spec
    return replace(spec, format=element, scale_format=scale)
