"""How an exporter stores weights, where that is not as their scheme says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from mpsearch.artifacts import Content
from mpsearch.schemes import Granularity, Scheme, Spec, parse_sparsity, stored_bits_of_many

_PLAIN = Spec("fp32", scale_format=None)


class Storage(Content):
    """What the files of a target hold of a weight; every default is what the canonical export does.

    Attributes:
        counted: ``file``: the bytes that the exporter writes; ``converted``: those that the consumer's own converter
            makes of them, where the exporter leaves weights in the model's type and writes how to round them.
        sparse: ``packed``: kept elements and their places; ``dense``: the zeros too.
        pattern_bits: Bits of the code of each group of 4 in a packed 2:4 weight; None: a place for each kept element.
        blocks: ``short``: the last block of a narrow reduction ends where the channels do; ``whole``: it is padded.
        elements: Format of elements to the one that they are stored in.
        scales: Format of scales to the one that they are stored in.
        zero_points: Granularities of symmetric integers that have a stored zero point beside each scale.
        decoded: Granularities whose weights are stored as fp32 numbers, their codes multiplied with their scales;
            ``sparse`` adds all pruned ones without scales.
        word_bits: What codes along one row of the reduction are padded to.
    """

    counted: Literal["file", "converted"] = "file"
    sparse: Literal["packed", "dense"] = "packed"
    pattern_bits: int | None = None
    blocks: Literal["short", "whole"] = "short"
    elements: Mapping[str, str] = Field(default_factory=dict)
    scales: Mapping[str, str] = Field(default_factory=dict)
    zero_points: tuple[Granularity, ...] = ()
    decoded: tuple[Granularity | Literal["sparse"], ...] = ()
    word_bits: int = 8


CANONICAL = Storage()


def stored_weight_bits(
    storage: Storage, scheme: Scheme, rows: Any, positions: Any, channels: Any
) -> Any:
    """Return the bits that weights of ``rows`` × ``positions`` × ``channels`` elements take, numbers or arrays of them.

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
    if storage.word_bits > 8 and spec.element.bits < 8:
        word = storage.word_bits // spec.element.bits
        padded = -(-channels // word) * word - channels
        more = rows * positions * padded * spec.element.bits
    else:
        more = 0
    bits = stored_bits_of_many(spec, rows, positions, channels, sparsity=sparsity)
    if sparsity is not None and storage.pattern_bits is not None:
        pattern = parse_sparsity(sparsity)
        groups = rows * positions * channels // pattern.group
        more = more + groups * (storage.pattern_bits - pattern.index_bits)
    if spec.granularity in storage.zero_points and spec.symmetric and spec.element.kind == "int":
        scales = 1 if spec.granularity == "tensor" else rows
        more = more + scales * spec.element.bits
    return bits + more


def is_decoded(storage: Storage, scheme: Scheme) -> bool:
    """Return whether a scheme's weights are stored as numbers, without scales."""
    spec = scheme.weight
    if spec.is_cast:
        return "sparse" in storage.decoded and scheme.sparsity is not None
    return spec.granularity in storage.decoded


def stored_spec(storage: Storage, spec: Spec) -> Spec:
    """Return ``spec`` with the formats that its elements and scales are stored in."""
    element = storage.elements.get(spec.format, spec.format)
    scale = spec.scale_format and storage.scales.get(spec.scale_format, spec.scale_format)
    return (
        spec
        if (element, scale) == (spec.format, spec.scale_format)
        else replace(spec, format=element, scale_format=scale)
    )
