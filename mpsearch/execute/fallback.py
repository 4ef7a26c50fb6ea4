"""Nodes that torch has no kernel for, computed by onnxruntime one at a time, without a gradient."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from mpsearch.execute.operators.kernel import Kernel
from mpsearch.execute.tensors import to_array, to_tensor
from mpsearch.graph.model import Node, Subgraph

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


class FallbackWarning(UserWarning):
    """A node runs in onnxruntime: slower, and without a gradient."""


def build_fallback(node: Node, dtypes: Mapping[str, str | None]) -> Kernel | None:
    """Return a kernel that runs ``node`` in onnxruntime, None where it cannot.

    Args:
        node: The node.
        dtypes: Element type of each value, where known; the carriers' own types elsewhere.
    """
    if node.domain not in _DOMAINS:
        return None
    if any(isinstance(value, Subgraph) for value in node.attributes.values()):
        return None
    if not _is_registered(node):
        return None
    sessions: dict[tuple[tuple[str, int] | None, ...], Any] = {}

    def kernel(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        arrays = [
            None if x is None else to_array(x, dtypes.get(name) or None)
            for name, x in zip(node.inputs, tensors, strict=True)
        ]
        key = tuple(None if a is None else (a.dtype.name, a.ndim) for a in arrays)
        if key not in sessions:
            sessions[key] = _open(node, arrays)
        feeds = {f"i{i}": array for i, array in enumerate(arrays) if array is not None}
        results = iter(sessions[key].run(None, feeds))
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


def _open(node: Node, arrays: list[NDArray[np.generic] | None]) -> Any:
    inputs = [
        helper.make_tensor_value_info(
            f"i{i}", helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
        )
        for i, array in enumerate(arrays)
        if array is not None
    ]
    names = [f"o{i}" if name else "" for i, name in enumerate(node.outputs)]
    proto = helper.make_node(
        node.op_type,
        ["" if array is None else f"i{i}" for i, array in enumerate(arrays)],
        names,
        domain=node.domain,
        **{name: _attribute(value) for name, value in node.attributes.items()},
    )
    outputs = [onnx.ValueInfoProto(name=name) for name in names if name]
    graph = helper.make_graph([proto], "node", inputs, outputs)
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
