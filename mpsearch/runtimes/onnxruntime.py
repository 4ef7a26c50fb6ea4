"""onnxruntime on a CPU, with the settings under which it computes what the model says; and with its own defaults."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from mpsearch.errors import PlanError
from mpsearch.graph.onnx_file.read import walk_nodes
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

    def deploy(self) -> "DeployedOnnxruntime":
        """Return the model with onnxruntime's default optimisations.

        Raises:
            PlanError: onnxruntime refuses it so.
        """
        return _deploy(self.model)


def open_session(path: Path) -> Session:
    """Open an export in onnxruntime on the processor.

    Raises:
        ModelError: It cannot be read.
    """
    model = load_model(path)
    return OnnxruntimeSession(model, read_rounding(model))


@dataclass(frozen=True, slots=True)
class DeployedOnnxruntime:
    """An exported model in onnxruntime with its default optimisations.

    Attributes:
        session: Of onnxruntime.
        kernels: (kernel, name) of each node of the optimised model.
    """

    session: Any
    kernels: tuple[tuple[str, str], ...]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the model's outputs.

        Raises:
            PlanError: onnxruntime fails while it runs.
        """
        names = [output.name for output in self.session.get_outputs()]
        try:
            found = self.session.run(names, dict(inputs))
        except Exception as error:  # onnxruntime's own types derive from Exception only
            raise run_error("onnxruntime", error) from None
        return dict(zip(names, found, strict=True))


def _deploy(model: onnx.ModelProto) -> DeployedOnnxruntime:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        session = _create(model, options, " with default optimisations")
        optimised = onnx.load(path, load_external_data=False)
    kernels = tuple((node.op_type, node.name) for node in walk_nodes(optimised.graph))
    return DeployedOnnxruntime(session, kernels)


def _open(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(*_EXACT_INT4)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _create(model, options)


def _create(model: onnx.ModelProto, options: Any, how: str = "") -> Any:
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own types derive from Exception only
        reason = str(error).strip().splitlines()[0]
        raise PlanError(f"onnxruntime cannot run the exported model{how}: {reason}") from None
