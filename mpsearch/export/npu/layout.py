"""The layout file of an NPU export: which bytes of the blob file are what, and what each layer does with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import PlanError
from mpsearch.numerics.range import Range
from mpsearch.schemes import Scheme, Spec

SCHEMA, VERSION = "npu_layout", 1
LAYOUT, BLOBS, GRAPH = "layout.json", "weights.bin", "graph.onnx"
ALIGNMENT = 64
"""Bytes that every blob's offset is a multiple of."""

Index = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PartName = Literal["codes", "scales", "zero_points", "indices", "patterns"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file beside the layout: its size, and its SHA-256."""

    bytes: Index
    digest: Digest


@dataclass(frozen=True, slots=True)
class Part:
    """One blob: whole numbers of ``bits`` bits, the first in the lowest bits of the first byte.

    Attributes:
        offset: Where it begins in the blob file.
        bytes: Its length.
        count: Numbers in it.
        bits: Bits of each.
        format: Element format that they are codes of; "" for indices and patterns.
        digest: SHA-256 of its bytes.
    """

    offset: Index
    bytes: Index
    count: Index
    bits: Annotated[int, Field(ge=1, le=32)]
    format: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A weight as it is stored.

    Attributes:
        name: The input of the graph that takes its values.
        dtype: That input's type.
        spec: What it is stored in.
        sparsity: Pattern that it was pruned to; only kept elements are stored where there are indices or patterns.
        shape: Its own shape.
        split: That shape with the reduction cut into (groups, channels).
        order: Permutation of ``split`` to (rows…, positions…, channels), the order of the codes.
        rows: Output channels.
        positions: Kernel positions.
        channels: Elements along the reduction at one position.
        scale_shape: [row blocks, positions or 1, channel blocks] of scales and zero points; None for a cast.
        tensor_scale: What scales are relative to (nvfp4), else 1.
        parts: Its blobs.
    """

    name: str
    dtype: Literal["float32", "float16", "bfloat16"]
    spec: Spec
    sparsity: str | None
    shape: tuple[Index, ...]
    split: tuple[Index, ...]
    order: tuple[Index, ...]
    rows: Index
    positions: Index
    channels: Index
    scale_shape: tuple[Index, Index, Index] | None
    tensor_scale: Annotated[float, Field(ge=0)]
    parts: dict[PartName, Part]


@dataclass(frozen=True, slots=True)
class WeightOperand:
    """A weight that a layer multiplies with.

    Attributes:
        input: Which input of the node it is.
        tensor: Name of the packed tensor; "" where the graph itself holds the weight.
    """

    input: Index
    tensor: str


@dataclass(frozen=True, slots=True)
class ActivationOperand:
    """An activation that a layer multiplies with.

    Attributes:
        input: Which input of the node it is.
        value: Its name in the user's model.
        reduction_axis: Axis along which blocks and tokens run.
        groups: Convolution groups that the axis spans.
        range: What it was calibrated to; None where its scales are live or it is a cast.
    """

    input: Index
    value: str
    reduction_axis: int
    groups: Annotated[int, Field(ge=1)]
    range: Range | None


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer: by node and initialisers of the user's model, as in plans.

    Attributes:
        node: Name of its node, in the graph too.
        initializers: What it multiplies with in the user's file.
        operator: ONNX operator.
        scheme: Name of its scheme.
        weights: Where its weights lie.
        activations: What it reads; the scheme's activation spec holds for each.
        output: What it gives, rounded to the base's activation format.
    """

    node: str
    initializers: tuple[str, ...]
    operator: str
    scheme: str
    weights: tuple[WeightOperand, ...]
    activations: tuple[ActivationOperand, ...]
    output: str


class Layout(Content):
    """What the layout file says; ``docs/plan-format.md`` says how it is read."""

    model: str
    structure_digest: Digest
    weights_digest: Digest
    base: str
    schemes: dict[str, Scheme]
    graph: StoredFile
    blobs: StoredFile
    alignment: Annotated[int, Field(ge=1)]
    tensors: tuple[PackedTensor, ...]
    layers: tuple[PackedLayer, ...]


def write_layout(layout: Layout, path: Path, inputs: Mapping[str, str]) -> None:
    """Write the layout file.

    Args:
        layout: What it says.
        path: The file.
        inputs: Name to digest of what it was made from.
    """
    write_artifact(path, SCHEMA, layout, version=VERSION, inputs=inputs)


def read_layout(path: Path) -> Layout:
    """Read a layout file, as from a stranger.

    Raises:
        ArtifactError: It is missing, damaged, of another version, or has unknown fields.
        PlanError: It contradicts itself.
    """
    layout = read_artifact(path, SCHEMA, Layout, version=VERSION)
    names = [tensor.name for tensor in layout.tensors]
    if len(set(names)) < len(names):
        raise PlanError(f"{path.name}: packed tensors must have names of their own")
    for layer in layout.layers:
        if layer.scheme not in layout.schemes or layout.base not in layout.schemes:
            raise PlanError(f"{path.name}: {layer.node!r} must have a scheme that the file defines")
        missing = {w.tensor for w in layer.weights} - {"", *names}
        if missing:
            raise PlanError(
                f"{path.name}: {layer.node!r} must read tensors of the file, got {min(missing)!r}"
            )
    return layout
