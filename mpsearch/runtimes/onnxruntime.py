"""onnxruntime on a CPU, with the settings under which it computes what the model says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from mpsearch.errors import PlanError
from mpsearch.runtimes.file_rounding import read_rounding
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
    return OnnxruntimeSession(model, read_rounding(model))


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
