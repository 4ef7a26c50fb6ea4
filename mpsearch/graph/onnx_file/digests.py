"""Digests of a model: its structure, and its weights."""

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx

from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.constants import Constant, Constants, load_checked

_CHUNK = 1 << 24  # bytes hashed at once, so that mapped weights need little memory
_SMALL = 1024  # integer tensors up to this size (shapes, axes) belong to the structure


def digest_structure(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of the graph as the file states it, weight bytes left out.

    Where tensors are stored, names of the producer and descriptions do not count.
    """
    digest = hashlib.sha256()
    for domain, version in sorted(
        (entry.domain or "ai.onnx", entry.version) for entry in model.opset_import
    ):
        _feed(digest, "opset", domain, version)
    _feed_graph(digest, model.graph)
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", *parts: object) -> None:
    digest.update(repr(parts).encode("utf-8", "surrogatepass"))


def _feed_graph(digest: "hashlib._Hash", graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        _feed(digest, "value", value.name)
        digest.update(value.type.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        _feed_tensor(digest, tensor)
    for node in graph.node:
        _feed(digest, node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output))
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            _feed_attribute(digest, attribute)


def _feed_attribute(digest: "hashlib._Hash", attribute: onnx.AttributeProto) -> None:
    _feed(digest, attribute.name, attribute.type)
    if attribute.type == onnx.AttributeProto.TENSOR:
        _feed_tensor(digest, attribute.t)
    elif attribute.type == onnx.AttributeProto.GRAPH:
        _feed_graph(digest, attribute.g)
    else:
        digest.update(attribute.SerializeToString(deterministic=True))


def _feed_tensor(digest: "hashlib._Hash", tensor: onnx.TensorProto) -> None:
    dims = tuple(tensor.dims)
    _feed(digest, tensor.name, dims, tensor.data_type)
    inline = tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    if inline and tensor.data_type in integers and np.prod(dims, dtype=object) <= _SMALL:
        try:
            digest.update(np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).tobytes())
        except Exception:  # a damaged tensor is reported where it is read
            digest.update(tensor.SerializeToString(deterministic=True))


def digest_weights(graph: ModelGraph) -> str:
    """Return the SHA-256 of all floating-point tensors of the user's file: names, shapes, bytes.

    Tensors are read one after another; mapped ones are not kept in memory.

    Raises:
        ModelError: A tensor cannot be read.
    """
    digest = hashlib.sha256()
    for name, constant in _originals(graph):
        _feed(digest, name, constant.shape, constant.dtype.name)
        array = np.ascontiguousarray(load_checked(name, constant)).reshape(-1).view(np.uint8)
        for start in range(0, array.size, _CHUNK):
            digest.update(array[start : start + _CHUNK].data)
    return digest.hexdigest()


def _originals(graph: ModelGraph) -> Iterator[tuple[str, Constant]]:
    constants = graph.constants
    if isinstance(constants, Constants):
        yield from sorted(constants.originals.items())
        return
    for name in sorted(constants):
        array = constants[name]
        if array.dtype.kind == "f":
            yield name, Constant(array.shape, array.dtype, name, lambda a=array: a)  # type: ignore[misc]
