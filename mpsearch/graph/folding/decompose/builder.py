"""Nodes written in place of one of the file: operators that are spelt out while a model is folded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from mpsearch.graph.folding.state import Draft
from mpsearch.graph.folding.types_of_outputs import sizes
from mpsearch.graph.onnx_file.constants import in_memory
from mpsearch.graph.onnx_file.topology import label


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the nodes that one node becomes; their values are new, their names paths below its own.

    Attributes:
        proto: The node that is spelt out; inputs and outputs carry final names.
        draft: State of the import.
        nodes: What is written so far.
    """

    proto: onnx.NodeProto
    draft: Draft
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def input(self, index: int) -> str:
        """Return the name of an input, "" if it is absent."""
        return self.proto.input[index] if index < len(self.proto.input) else ""

    def output(self, index: int) -> str:
        """Return the name of an output, "" if it is unused."""
        return self.proto.output[index] if index < len(self.proto.output) else ""

    def attribute(self, name: str, otherwise: float) -> float:
        """Return a number among the attributes."""
        for entry in self.proto.attribute:
            if entry.name == name:
                return entry.f if entry.type == onnx.AttributeProto.FLOAT else entry.i
        return otherwise

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape of a value in the first probe."""
        types = self.draft.types.get(name)
        return None if types is None else sizes(types[0])

    def dtype(self, name: str) -> "np.dtype[np.generic]":
        """Return the element type of a value, float32 where it is unknown."""
        types = self.draft.types.get(name)
        code = 0 if types is None or types[0] is None else types[0].tensor_type.elem_type
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code) if code else np.float32)

    def constant(self, value: object, dtype: "np.dtype[np.generic] | type" = np.int64) -> str:
        """Return the name of a new constant."""
        name = self.draft.fresh_value(f"{label(self.proto)}.constant")
        self.draft.add_constant(name, in_memory(np.asarray(value).astype(dtype), name))
        return name

    def call(
        self,
        op_type: str,
        *inputs: str,
        part: str = "",
        into: str | Sequence[str] = "",
        domain: str = "",
        **attributes: object,
    ) -> str:
        """Write a node and return the name of its first output.

        Args:
            op_type: Operator, of a form that every supported opset shares.
            *inputs: Value names.
            part: What the node is called below the name of the one that is spelt out; "" for none.
            into: Names of its outputs; new ones if empty.
            domain: Operator domain.
            **attributes: Of the operator.
        """
        outputs = [into] if isinstance(into, str) else list(into)
        outputs = [
            name or self.draft.fresh_value(f"{label(self.proto)}.{op_type}") for name in outputs
        ]
        name = f"{label(self.proto)}/{part}" if part else ""
        node = onnx.helper.make_node(op_type, inputs, outputs, name, domain=domain, **attributes)
        node.metadata_props.extend(self.proto.metadata_props)
        self.nodes.append(node)
        return outputs[0]


Decomposition = Callable[[Writer], bool]
"""Writes what a node is; returns False, having written nothing that counts, where it cannot."""
