"""onnxruntime on a CPU, with the settings under which it computes what the model says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from mpsearch.errors import PlanError
from mpsearch.runtimes.rounding import EXACT, Rounding
from mpsearch.runtimes.session import Array, Session, expose, load_model, run_error

_EXACT_INT4 = ("session.qdq_matmulnbits_accuracy_level", "1")
"""Otherwise activations of layers with int4 weights are quantised to int8."""


@dataclass(frozen=True, slots=True)
class OnnxruntimeSession:
    """An exported model in onnxruntime, opened once for each set of outputs."""

    model: onnx.ModelProto
    rounding: Rounding = EXACT
    opened: dict[tuple[str, ...], Any] = field(default_factory=dict)
    is_standard: bool = False
    note: str = "graph optimisations are off, so that every rounding is executed"

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named values, intermediate ones included.

        Raises:
            PlanError: onnxruntime refuses the model, or fails while it runs.
        """
        key = tuple(outputs)
        if key not in self.opened:
            self.opened[key] = _open(expose(self.model, outputs))
        try:
            found = self.opened[key].run(list(outputs), dict(inputs))
        except Exception as error:  # onnxruntime's own types derive from Exception only
            raise run_error("onnxruntime", error) from None
        return dict(zip(outputs, found, strict=True))


def open_session(path: Path) -> Session:
    """Open an export in onnxruntime on the processor.

    Raises:
        ModelError: It cannot be read.
    """
    model = load_model(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    codes = _byte_codes(model, tensors)
    rounding = Rounding(byte_codes=codes, biases=_biases(model, tensors)) if codes else EXACT
    return OnnxruntimeSession(model, rounding)


def _byte_codes(
    model: onnx.ModelProto, tensors: Mapping[str, onnx.TensorProto]
) -> dict[str, tuple[int, int]]:
    """Value → lowest and highest code around its zero point, of those that are rounded to unsigned bytes."""
    found = {}
    for node in model.graph.node:
        tensor = tensors.get(node.input[2]) if len(node.input) > 2 else None
        if tensor is None or tensor.data_type != onnx.TensorProto.UINT8:
            continue
        if node.op_type == "QuantizeLinear":
            zero = int(onnx.numpy_helper.to_array(tensor))
            found[node.input[0]] = (-zero, 255 - zero)
    return found


def _biases(
    model: onnx.ModelProto, tensors: Mapping[str, onnx.TensorProto]
) -> dict[str, torch.Tensor]:
    """Convolution → its bias, of those that are stored as integers."""
    stored = {}
    for node in model.graph.node:
        codes = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if codes is not None and codes.data_type == onnx.TensorProto.INT32:
            values = onnx.numpy_helper.to_array(codes).astype(np.float32)
            stored[node.output[0]] = values * onnx.numpy_helper.to_array(tensors[node.input[1]])
    return {
        node.name: torch.from_numpy(stored[node.input[2]])
        for node in model.graph.node
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in stored
    }


def _open(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(*_EXACT_INT4)
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own types derive from Exception only
        reason = str(error).strip().splitlines()[0]
        raise PlanError(f"onnxruntime cannot run the exported model: {reason}") from None
