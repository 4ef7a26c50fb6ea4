"""The model file: parsed, its tensors located; nothing outside its folder is read."""

import warnings
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from mpsearch.errors import ModelError
from mpsearch.graph.onnx_file.constants import Array, Constant, in_memory
from mpsearch.graph.onnx_file.topology import subgraphs

OLDEST_OPSET, NEWEST_OPSET = 7, 25
_BITS = {
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    **{
        getattr(onnx.TensorProto, name): 2
        for name in ("UINT2", "INT2")
        if hasattr(onnx.TensorProto, name)
    },
}


def read_model(path: Path) -> onnx.ModelProto:
    """Return the parsed model with its local functions inlined; external data is not read.

    Raises:
        ModelError: The file is missing, no ONNX model, empty, or of an opset outside 7 to 25.
    """
    name = path.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{name}: cannot be read: {error.strerror}") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's own DecodeError, whose module ships no types
        raise ModelError(
            f"{name}: must be an ONNX model; it is truncated or of another kind"
        ) from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError(f"{name}: must be an ONNX model with a graph; it holds none")
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise ModelError(f"{name}: names must be UTF-8 text; the file is damaged")
    if model.functions:
        model = _inline(model, name)
    return _at_known_opset(model, name)


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Yield every name in the file; protobuf gives bytes for what is no text."""
    for opset in model.opset_import:
        yield opset.domain
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from _node_texts(function.node)
    yield from _graph_texts(model.graph)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[object]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (text for entry in node.metadata_props for text in (entry.key, entry.value))
        for attribute in node.attribute:
            yield attribute.name
            yield from (text for e in attribute.t.external_data for text in (e.key, e.value))
            if attribute.HasField("g"):
                yield from _graph_texts(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_texts(graph)


def _inline(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:
        raise ModelError(f"{name}: its local functions cannot be inlined: {error}") from error


def _at_known_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return ``model`` at an opset that is understood: as it is, or restated where that is exact."""
    versions = opset_versions(model)
    default = versions.get("", 0)
    if default == 0 or OLDEST_OPSET <= default <= NEWEST_OPSET:
        return model
    if default > NEWEST_OPSET:
        newer = sorted(
            {
                node.op_type
                for node in _all_protos(model.graph.node)
                if node.domain in ("", "ai.onnx") and _since(node.op_type, default) > NEWEST_OPSET
            }
        )
        if newer:
            raise ModelError(
                f"{name}: opset {OLDEST_OPSET} to {NEWEST_OPSET} is needed, got {default}, whose "
                f"{', '.join(newer)} differ; export the model with an older opset"
            )
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = NEWEST_OPSET
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:
        raise ModelError(
            f"{name}: opset {OLDEST_OPSET} to {NEWEST_OPSET} is needed, got {default}, which onnx "
            "cannot convert; export the model with a newer opset"
        ) from error


def _all_protos(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for _, graph in subgraphs(node):
            yield from _all_protos(graph.node)


def _since(op_type: str, version: int) -> int:
    """Return the opset that gave the operator its meaning at ``version``."""
    try:
        return int(onnx.defs.get_schema(op_type, version, "").since_version)
    except Exception:  # unknown to this version of onnx: newer than all it knows
        return version


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Return domain to opset version; the default domain is ""."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        versions["" if entry.domain == "ai.onnx" else entry.domain] = entry.version
    return versions


def element_type(code: int, where: str) -> "np.dtype[Any]":
    """Return numpy's element type for ONNX's type number ``code``."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{where}: element type {code} is none that ONNX defines") from None


def read_tensor(proto: onnx.TensorProto, name: str, folder: Path) -> Constant:
    """Return the tensor ``proto`` as a constant called ``name``; external bytes are mapped later.

    Raises:
        ModelError: The bytes do not fit shape and type, or lie outside ``folder``.
    """
    where = f"tensor {name!r}"
    shape = tuple(proto.dims)
    if any(size < 0 for size in shape):
        raise ModelError(f"{where}: sizes must not be negative, got {shape}")
    dtype = element_type(proto.data_type, where)
    size = prod(shape)
    if proto.data_location == onnx.TensorProto.EXTERNAL or proto.external_data:
        return _external(proto, name, folder, shape, dtype, size)
    if proto.HasField("segment"):
        raise ModelError(f"{where}: tensors in segments are not part of ONNX models")
    bits = _BITS.get(proto.data_type, dtype.itemsize * 8)
    try:
        if proto.HasField("raw_data"):
            raw = proto.raw_data
            if len(raw) * 8 < size * bits or len(raw) > (size * bits + 7) // 8:
                raise ModelError(f"{where}: {shape} of {dtype} do not fit in {len(raw)} bytes")
            if proto.data_type in _BITS:
                array = numpy_helper.to_array(proto)
            else:
                array = np.frombuffer(raw, dtype).reshape(shape)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy's, of casts in malformed files
                array = numpy_helper.to_array(proto).astype(dtype, copy=False).reshape(shape)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: its bytes do not hold {shape} of {dtype}: {error}") from None
    return in_memory(array, name)


def _external(
    proto: onnx.TensorProto,
    name: str,
    folder: Path,
    shape: tuple[int, ...],
    dtype: "np.dtype[Any]",
    size: int,
) -> Constant:
    where = f"tensor {name!r}"
    entries = {entry.key: entry.value for entry in proto.external_data}
    path = locate(entries.get("location", ""), where, folder)
    n_bytes = (size * _BITS.get(proto.data_type, dtype.itemsize * 8) + 7) // 8
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or n_bytes)
    except ValueError:
        raise ModelError(f"{where}: offset and length of external data must be integers") from None
    if length != n_bytes:
        raise ModelError(
            f"{where}: {shape} of {dtype} are {n_bytes} bytes, but external data claims {length}"
        )
    available = path.stat().st_size
    if offset < 0 or offset + n_bytes > available:
        raise ModelError(
            f"{where}: bytes {offset} to {offset + n_bytes} are needed of the external data file "
            f"{path.name!r}, which holds {available}"
        )
    packed = proto.data_type in _BITS
    data_type = proto.data_type

    def load() -> Array:
        if size == 0:
            return np.empty(shape, dtype)
        if not packed:
            return np.memmap(path, dtype, mode="r", offset=offset, shape=shape or (1,)).reshape(
                shape
            )
        raw = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(n_bytes,)).tobytes()
        tensor = onnx.TensorProto(data_type=data_type, dims=shape, raw_data=raw)
        return numpy_helper.to_array(tensor)

    return Constant(shape, dtype, name, load)


def locate(location: str, where: str, folder: Path) -> Path:
    """Return the external data file ``location`` in ``folder``.

    Raises:
        ModelError: It lies outside the folder (also through links), or is no regular file.
    """
    if not location or "\0" in location:
        raise ModelError(f"{where}: external data must name its file, got {location!r}")
    root = folder.resolve()
    path = (root / location).resolve()
    if Path(location).is_absolute() or not path.is_relative_to(root):
        raise ModelError(f"{where}: external data must lie in the model's folder, got {location!r}")
    if not path.is_file():
        raise ModelError(
            f"{where}: external data file {location!r} is missing in the model's folder"
        )
    return path


def walk_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of a graph, those of its subgraphs after the node that holds them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from walk_nodes(attribute.g)
