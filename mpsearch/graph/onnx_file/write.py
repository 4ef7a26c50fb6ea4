"""A folded graph as an ONNX model."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from mpsearch.errors import ModelError
from mpsearch.graph.folding.types_of_outputs import schema
from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import Attribute, ModelGraph, Node, Subgraph, Value
from mpsearch.graph.onnx_file.constants import Array, total_bytes

_LARGEST = 2**31 - 2**20  # bytes of a protobuf message, less room for the graph itself


def to_onnx(graph: ModelGraph) -> onnx.ModelProto:
    """Return ``graph`` as a model with all weights inside; it runs at any batch.

    Raises:
        ModelError: The weights need more than the 2 GB that such a file may hold.
    """
    if total_bytes(graph.constants) > _LARGEST:
        raise ModelError(
            f"{graph.name}: weights must fit in 2 GB to be written into one file, they do not"
        )
    initializers = [to_tensor(array, name) for name, array in graph.constants.items()]
    body = onnx.helper.make_graph(
        [to_node(node) for node in graph.nodes],
        graph.name or "graph",
        [_value_info(value) for value in graph.inputs],
        [_value_info(value) for value in graph.outputs],
        initializers,
    )
    opsets = [
        onnx.helper.make_opsetid(d, v)
        for d, v in sorted(opset_versions(graph.nodes, graph.opset).items())
    ]
    model = onnx.helper.make_model(body, opset_imports=opsets, producer_name="mpsearch")
    model.ir_version = min(model.ir_version, max(8, _oldest_ir(opsets)))
    onnx.helper.set_model_props(model, dict(graph.metadata))
    return model


def _oldest_ir(opsets: list[onnx.OperatorSetIdProto]) -> int:
    known = [entry for entry in opsets if entry.domain in ("", "ai.onnx.ml")]
    return int(onnx.helper.find_min_ir_version_for(known, ignore_unknown=True))


def opset_versions(nodes: Iterable[Node], default: int) -> dict[str, int]:
    """Return domain to opset version of all that ``nodes`` use."""
    versions = {"": default}
    for node in all_nodes(nodes):
        versions[node.domain] = max(versions.get(node.domain, 1), node.version)
    return versions


def to_tensor(array: Array, name: str) -> onnx.TensorProto:
    """Return ``array`` as a tensor with its bytes inside."""
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def to_node(node: Node) -> onnx.NodeProto:
    """Return ``node`` as ONNX states it."""
    proto = onnx.NodeProto(
        name=node.name,
        op_type=node.op_type,
        domain=node.domain,
        input=node.inputs,
        output=node.outputs,
    )
    definition = schema(node.op_type, node.version, node.domain)
    declared = {} if definition is None else definition.attributes
    for name, value in node.attributes.items():
        kind = declared[name].type.value if name in declared else None
        proto.attribute.append(_attribute(name, value, kind))
    return proto


def _attribute(name: str, value: Attribute, kind: int | None) -> onnx.AttributeProto:
    if isinstance(value, Subgraph):
        return onnx.helper.make_attribute(name, _graph(value, name))
    if isinstance(value, np.ndarray):
        return onnx.helper.make_attribute(name, to_tensor(value, name))
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogateescape")
        return onnx.AttributeProto(name=name, type=onnx.AttributeProto.STRING, s=encoded)
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        texts = [str(text).encode("utf-8", "surrogateescape") for text in value]
        return onnx.AttributeProto(name=name, type=onnx.AttributeProto.STRINGS, strings=texts)
    if isinstance(value, tuple):
        floats = bool(value) and isinstance(value[0], float)
        code = kind or (onnx.AttributeProto.FLOATS if floats else onnx.AttributeProto.INTS)
        return onnx.helper.make_attribute(name, list(value), attr_type=code)
    return onnx.helper.make_attribute(name, value)


def _graph(body: Subgraph, name: str) -> onnx.GraphProto:
    return onnx.helper.make_graph(
        [to_node(node) for node in body.nodes],
        name,
        [_value_info(value, named=False) for value in body.inputs],
        [_value_info(value, named=False) for value in body.outputs],
        [to_tensor(array, key) for key, array in body.constants.items()],
    )


def _value_info(value: Value, *, named: bool = True) -> onnx.ValueInfoProto:
    """Return ``value`` as ONNX declares it; ``named`` gives sizes that are None a symbol each."""
    if value.dtype is None:
        return onnx.helper.make_empty_tensor_value_info(value.name)
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(_dtype(value.dtype)))
    if value.shape is None:
        return onnx.helper.make_tensor_value_info(value.name, code, None)
    dims: list[int | str | None] = list(value.shape)
    if named:
        dims = [
            ("batch" if axis == 0 else f"{value.name}_{axis}") if size is None else size
            for axis, size in enumerate(dims)
        ]
    return onnx.helper.make_tensor_value_info(value.name, code, dims)


def _dtype(name: str) -> "np.dtype[np.generic]":
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def metadata_of(model: onnx.ModelProto) -> Mapping[str, str]:
    """Return the metadata properties of a model file."""
    return {entry.key: entry.value for entry in model.metadata_props}
