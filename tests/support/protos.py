"""ONNX protos as programs, without the importer: what these tests feed the programs with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mpsearch.graph.model import Node, Subgraph, Value
from mpsearch.program.compile import compile_nodes
from mpsearch.program.program import Program
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.program.tensors import to_array, to_tensor

Array = NDArray[np.generic]


def dtype_name(info: onnx.ValueInfoProto) -> str | None:
    number = info.type.tensor_type.elem_type
    return helper.tensor_dtype_to_np_dtype(number).name if number else None


def value_of(info: onnx.ValueInfoProto) -> Value:
    dims = info.type.tensor_type.shape.dim
    return Value(info.name, tuple(d.dim_value or None for d in dims), dtype_name(info))


def attribute_of(attribute: onnx.AttributeProto, opsets: dict[str, int]) -> object:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.GraphProto):
        return Subgraph(
            tuple(nodes_of(value, opsets)),
            tuple(map(value_of, value.input)),
            tuple(map(value_of, value.output)),
            {t.name: numpy_helper.to_array(t) for t in value.initializer},
        )
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def nodes_of(graph: onnx.GraphProto, opsets: dict[str, int]) -> list[Node]:
    nodes = []
    for node in graph.node:
        name = node.name or next(name for name in node.output if name)
        attributes = {a.name: attribute_of(a, opsets) for a in node.attribute}
        version = opsets.get(node.domain, 1)
        nodes.append(
            Node(
                name,
                node.op_type,
                node.domain,
                version,
                tuple(node.input),
                tuple(node.output),
                attributes,
            )
        )
    return nodes


def program_of(model: onnx.ModelProto) -> Program:
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    dtypes = {
        info.name: dtype_name(info) for info in (*graph.input, *graph.output, *graph.value_info)
    }
    return compile_nodes(
        nodes_of(graph, opsets),
        inputs=[info.name for info in graph.input if info.name not in constants],
        outputs=[info.name for info in graph.output],
        constants=constants,
        device=torch.device("cpu"),
        dtypes=dtypes,
    )


def run_arrays(
    program: Program, inputs: Sequence[Array], dtypes: Sequence[str | None]
) -> list[Any]:
    """Outputs of ``program`` as arrays of the types that the model declares."""
    values = program.make_values()
    for name, array in zip(program.inputs, inputs, strict=False):
        values[program.slots[name]] = to_tensor(array)
    wanted = [program.slots[name] for name in program.outputs]
    with torch.inference_mode():
        run_schedule(make_schedule(program, wanted), values)
    tensors = [values[slot] for slot in wanted]
    return [to_array(t, dtype) for t, dtype in zip(tensors, dtypes, strict=True) if t is not None]
