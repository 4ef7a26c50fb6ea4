"""Nodes that torch has no kernel for, computed by onnxruntime one at a time, without a gradient."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from torch import Tensor

from mpsearch.graph.model import Node, Subgraph
from mpsearch.program.operators.attributes import Kernel
from mpsearch.program.tensors import to_array, to_tensor

_Input = tuple[str, int | None]  # element type, and rank where it is known
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


class FallbackWarning(UserWarning):
    """A node runs in onnxruntime: slower, and without a gradient."""


def build_fallback(node: Node, dtypes: Mapping[str, str | None]) -> Kernel | None:
    """Return a kernel that runs ``node`` in onnxruntime, None where it cannot.

    Args:
        node: The node.
        dtypes: Element type of each value, where known; the carriers' own types elsewhere.
    """
    if node.domain not in _DOMAINS or node.op_type == "ZipMap":  # its maps are no tensors
        return None
    if any(isinstance(value, Subgraph) for value in node.attributes.values()):
        return None
    if not _is_registered(node) or not _is_implemented(node, dtypes):
        return None
    sessions: dict[tuple[_Input | None, ...], Any] = {}

    def kernel(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        arrays = [
            None if x is None else to_array(x, dtypes.get(name) or None)
            for name, x in zip(node.inputs, tensors, strict=True)
        ]
        key: tuple[_Input | None, ...] = tuple(
            None if a is None else (a.dtype.name, a.ndim) for a in arrays
        )
        feeds = {f"i{i}": array for i, array in enumerate(arrays) if array is not None}
        try:
            if key not in sessions:
                sessions[key] = _open(node, key)
            results = iter(sessions[key].run(None, feeds))
        except Exception as error:  # onnxruntime's own have no common base
            raise RuntimeError(f"onnxruntime: {error}") from error  # the program names the node
        device = next((x.device for x in tensors if x is not None), "cpu")
        return tuple(to_tensor(next(results), device) if name else None for name in node.outputs)

    warnings.warn(
        f"node {node.name!r} ({node.op_type}) runs in onnxruntime: slower, and without a gradient",
        FallbackWarning,
        stacklevel=2,
    )
    return kernel


def _is_registered(node: Node) -> bool:
    if node.domain in ("", "ai.onnx"):
        try:
            return not onnx.defs.get_schema(node.op_type, node.version, "").deprecated
        except onnx.defs.SchemaError:
            return False
    return True


def _is_implemented(node: Node, dtypes: Mapping[str, str | None]) -> bool:
    """Whether onnxruntime has a kernel here; True where the inputs' types are not all known."""
    names = [name for name in node.inputs if name]
    known = {name: (dtype, None) for name in names if (dtype := dtypes.get(name))}
    if len(known) < len(set(names)):
        return True
    try:
        _open(node, [known.get(name) for name in node.inputs])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return False
    except Exception:  # shapes are unknown yet: what else is wrong is said when it runs
        return True
    return True


def _open(node: Node, inputs: Sequence[_Input | None]) -> Any:
    """Return a session of one node."""
    infos = []
    for i, entry in enumerate(inputs):
        if entry is not None:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(entry[0]))
            shape = None if entry[1] is None else [None] * entry[1]
            infos.append(helper.make_tensor_value_info(f"i{i}", kind, shape))
    names = [f"o{i}" if name else "" for i, name in enumerate(node.outputs)]
    proto = helper.make_node(
        node.op_type,
        ["" if entry is None else f"i{i}" for i, entry in enumerate(inputs)],
        names,
        domain=node.domain,
        **{name: _attribute(value) for name, value in node.attributes.items()},
    )
    outputs = [onnx.ValueInfoProto(name=name) for name in names if name]
    graph = helper.make_graph([proto], "node", infos, outputs)
    opsets = [helper.make_opsetid(node.domain, node.version)]
    if node.domain not in ("", "ai.onnx"):
        opsets.append(helper.make_opsetid("", 17))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _attribute(value: object) -> Any:
    if isinstance(value, np.ndarray):
        return onnx.numpy_helper.from_array(value)
    return list(value) if isinstance(value, tuple) else value
