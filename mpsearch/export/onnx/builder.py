"""Nodes and tensors of an ONNX graph under construction, with names that never collide."""

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from mpsearch.errors import PlanError
from mpsearch.formats import Format

FORMAT_TYPES = {
    "fp32": (onnx.TensorProto.FLOAT, np.dtype(np.float32)),
    "fp16": (onnx.TensorProto.FLOAT16, np.dtype(np.float16)),
    "bf16": (onnx.TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    "e4m3": (onnx.TensorProto.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn)),
    "e5m2": (onnx.TensorProto.FLOAT8E5M2, np.dtype(ml_dtypes.float8_e5m2)),
    "e2m1": (onnx.TensorProto.FLOAT4E2M1, np.dtype(ml_dtypes.float4_e2m1fn)),
    "e8m0": (onnx.TensorProto.FLOAT8E8M0, np.dtype(ml_dtypes.float8_e8m0fnu)),
}
"""Element format to ONNX element type and numpy's name of it; integers are added by width."""


def find_type(element: Format) -> tuple[int, np.dtype[Any]]:
    """Return the ONNX element type that stores ``element``, and numpy's type of it.

    Integers of fewer bits are stored in the next type that ONNX has, int4 or int8.

    Raises:
        PlanError: ONNX has no such type (6-bit floats, tf32).
    """
    if element.kind == "int":
        if element.bits <= 4:
            return onnx.TensorProto.INT4, np.dtype(ml_dtypes.int4)
        return onnx.TensorProto.INT8, np.dtype(np.int8)
    if element.name not in FORMAT_TYPES:
        raise PlanError(
            f"ONNX must have a type for {element.name} to export it, but has only "
            f"{', '.join(FORMAT_TYPES)} and integers"
        )
    return FORMAT_TYPES[element.name]


@dataclass(slots=True)
class Writer:
    """Collects the nodes and tensors that encode one tensor.

    Attributes:
        prefix: Start of every name made here; must be unique in the graph.
        nodes: In topological order.
        tensors: Initialisers.
        functions: Names of model-local functions that the nodes call.
        opset: Least version of the default domain that the nodes need.
    """

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    opset: int = 23

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node of the default domain and return the name of its one output."""
        name = f"{self.prefix}/{op_type}_{len(self.nodes)}"
        output = output or name
        self.nodes.append(
            helper.make_node(op_type, list(inputs), [output], name=name, **attributes)
        )
        return output

    def call(self, function: str, *inputs: str, outputs: int, **attributes: int) -> list[str]:
        """Append a call of the model-local ``domain::name`` and return its outputs' names."""
        domain, _, op_type = function.partition("::")
        name = f"{self.prefix}/{op_type}_{len(self.nodes)}"
        names = [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(op_type, list(inputs), names, name=name, domain=domain, **attributes)
        )
        self.functions.add(function)
        return names

    def constant(self, values: ArrayLike, role: str) -> str:
        """Append an initialiser and return its name; ``role`` says what it is."""
        name = f"{self.prefix}/{role}_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def sizes(self, *values: int) -> str:
        """Append an int64 vector, such as a shape or axes, that is part of the graph; return its name."""
        return self.add("Constant", value_ints=values)

    def whole(self, value: int) -> str:
        """Append an int64 number that is part of the graph; return its name."""
        return self.add("Constant", value_int=value)

    def number(self, value: float) -> str:
        """Append an fp32 number that is part of the graph, such as a format's maximum; return its name."""
        return self.add("Constant", value_float=value)

    def table(self, values: NDArray[np.int32]) -> str:
        """Append a small tensor that is part of the graph; return its name."""
        return self.add("Constant", value=numpy_helper.from_array(values))
