"""Bytes that tensors of an ONNX file take, read from the file alone."""

import json
from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path

import numpy as np
import onnx
from safetensors import safe_open

from mpsearch.export.npu.export import stored_bytes as npu_bytes
from mpsearch.export.npu.layout import read_layout
from mpsearch.graph.model import ModelGraph

BITS = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT8E4M3FN: 8,
    onnx.TensorProto.FLOAT8E5M2: 8,
    onnx.TensorProto.FLOAT8E8M0: 8,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.INT32: 32,
}


def stored_size(tensor: onnx.TensorProto) -> int:
    """Return the bytes of one tensor."""
    return ceil(BITS[tensor.data_type] * prod(tensor.dims) / 8)


def stored_weights(model: onnx.ModelProto, sources: set[str]) -> int:
    """Return the bytes of what an export stores of decided weights.

    That is every initialiser that a layer's weight is computed from, and of the tensors ``sources`` whatever
    another operator reads.

    Args:
        model: An export.
        sources: Names of initialisers that hold what layers multiply with.
    """
    tensors: dict[str, onnx.TensorProto] = {}
    made_by: dict[str, onnx.NodeProto] = {}
    nodes = list(_nodes(model.graph))
    _collect(model.graph, tensors)
    for node in nodes:
        made_by.update(dict.fromkeys(node.output, node))
    constant: dict[str, set[str] | None] = {}

    def behind(name: str) -> set[str] | None:
        """Initialisers that a value is computed from; None where an input reaches it."""
        if name not in constant:
            node = made_by.get(name)
            if name in tensors:
                constant[name] = {name}
            elif node is None:
                constant[name] = None
            else:
                parts = [behind(n) for n in node.input if n]
                known = [part for part in parts if part is not None]
                constant[name] = set().union(*known) if len(known) == len(parts) else None
        return constant[name]

    found = sources & tensors.keys()
    for node in nodes:
        if any(p.key == "mpsearch.site" and p.value == node.name for p in node.metadata_props):
            is_recurrent = node.op_type in ("LSTM", "GRU", "RNN")
            has_bias = node.op_type in ("Conv", "ConvTranspose", "Gemm")
            for name in node.input[1:3] if is_recurrent else node.input[: 2 if has_bias else None]:
                is_vector = name in tensors and len(tensors[name].dims) < 2  # a bias
                if name and not is_vector:
                    found |= behind(name) or set()
    return sum(stored_size(tensors[name]) for name in found)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _collect(graph: onnx.GraphProto, tensors: dict[str, onnx.TensorProto]) -> None:
    tensors.update({t.name: t for t in graph.initializer})
    for node in _nodes(graph):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                tensors.update({t.name: t for t in attribute.g.initializer})


def weight_sources(graph: ModelGraph) -> set[str]:
    """Return the names of constants that hold what some layer multiplies with, or a part of it."""
    entries = graph.constants.entries  # type: ignore[attr-defined]
    decided = {g.right.source for layer in graph.layers for g in layer.gemms if g.has_weight}
    return {name for name, constant in entries.items() if constant.source in decided}


def stored_bytes(folder: Path, sources: set[str]) -> int | None:
    """Return the bytes of what an export in ``folder`` stores of decided weights; None where it holds none.

    Of checkpoints and of encodings that are what is quantised: all else lies there, or stays, as it was.
    """
    if (folder / "layout.json").exists():
        beside = onnx.load(folder / "graph.onnx").graph.initializer
        kept = sum(stored_size(tensor) for tensor in beside if tensor.name in sources)
        return npu_bytes(read_layout(folder / "layout.json")) + kept
    if (folder / "config.json").exists():
        return sum(map(checkpoint_bytes, folder.glob("model*.safetensors")))
    if (folder / "fqn_to_config.json").exists():
        return None
    if (folder / "model.encodings").exists():
        return encoded_bytes(folder)
    return stored_weights(onnx.load(folder / "model.onnx"), sources)


def checkpoint_bytes(path: Path) -> int:
    """Return the bytes of quantised weights of modules in a safetensors file, and of their scales; no bias, shape or input."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())  # no mapping
        scales = [name for name in names if name.endswith(".weight_scale")]
        quantised = {name.removesuffix("_scale") for name in scales}
        tensors = [
            file.get_tensor(name)
            for name in names
            if "shape" not in name and any(name.startswith(weight) for weight in quantised)
        ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def encoded_bytes(folder: Path) -> int:
    """Return the bytes of codes and scales that encodings say of initialisers: fp16 scales of groups, fp32 ones of all else."""
    entries = json.loads((folder / "model.encodings").read_text())["encodings"]
    sizes = {t.name: prod(t.dims) for t in onnx.load(folder / "model.onnx").graph.initializer}
    bits = 0
    for entry in entries:
        if entry["name"] in sizes:
            scales = np.size(entry["y_scale"]) * (16 if "block_size" in entry else 32)
            bits += sizes[entry["name"]] * int(entry["output_dtype"].removeprefix("int")) + scales
    return bits // 8
