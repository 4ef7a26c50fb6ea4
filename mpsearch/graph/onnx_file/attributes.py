"""ONNX attributes as plain Python values."""

from pathlib import Path

import onnx

from mpsearch.errors import ModelError
from mpsearch.graph.model import Attribute
from mpsearch.graph.onnx_file.constants import load_checked
from mpsearch.graph.onnx_file.read import read_tensor
from mpsearch.graph.onnx_file.topology import label

_KIND = onnx.AttributeProto


def plain_attributes(node: onnx.NodeProto, folder: Path) -> dict[str, Attribute]:
    """Return name to value of ``node``'s attributes, graphs left out.

    Raises:
        ModelError: An attribute is of a kind that no operator has, or its tensor is damaged.
    """
    return {
        attribute.name: plain_value(attribute, node, folder)
        for attribute in node.attribute
        if attribute.type not in (_KIND.GRAPH, _KIND.GRAPHS)
    }


def plain_value(attribute: onnx.AttributeProto, node: onnx.NodeProto, folder: Path) -> Attribute:
    """Return one attribute's value: int, float, str, tuple of those, array or type."""
    kind = attribute.type
    if kind == _KIND.INT:
        return int(attribute.i)
    if kind == _KIND.FLOAT:
        return float(attribute.f)
    if kind == _KIND.STRING:
        return attribute.s.decode("utf-8", "surrogateescape")
    if kind == _KIND.INTS:
        return tuple(attribute.ints)
    if kind == _KIND.FLOATS:
        return tuple(attribute.floats)
    if kind == _KIND.STRINGS:
        return tuple(text.decode("utf-8", "surrogateescape") for text in attribute.strings)
    if kind == _KIND.TENSOR:
        name = f"{label(node)}.{attribute.name}"
        return load_checked(name, read_tensor(attribute.t, name, folder))
    if kind == _KIND.TYPE_PROTO:
        return attribute.tp
    raise ModelError(
        f"node {label(node)!r} ({node.op_type}): attribute {attribute.name!r} has the kind {kind}, "
        "which no ONNX operator takes"
    )
