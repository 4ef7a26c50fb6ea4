"""OpenVINO on a CPU.

Run in fp32 throughout, weights as the export has them: without bf16 inference, without activations quantised
on the fly, and without the integer transformations, which refuse models that mix int8 with nvfp4. Local functions
are expanded first, and shapes are fixed: blocks need a known size. fp16 round trips are left out by the
runtime, which computes such layers in fp32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import openvino
from onnx.inliner import inline_local_functions

from mpsearch.errors import PlanError
from mpsearch.runtimes.rounding import Rounding
from mpsearch.runtimes.session import Array, Session, bind_shapes, expose, load_model

SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "LP_TRANSFORMS_MODE": "NO",
}


@dataclass(frozen=True, slots=True)
class OpenvinoSession:
    """An exported model in OpenVINO, compiled once for each set of shapes and outputs."""

    model: onnx.ModelProto
    compiled: dict[object, Any] = field(default_factory=dict)
    rounding: Rounding = Rounding(through_half=True, keeps_half=False)  # noqa: RUF009 - immutable
    note: str = "int8 runs as fp32 arithmetic on int8 codes; fp16 layers compute in fp32"

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named values, intermediate ones included.

        Raises:
            PlanError: OpenVINO refuses the model.
        """
        shapes = tuple(sorted((name, x.shape) for name, x in inputs.items()))
        key = (shapes, tuple(outputs))
        if key not in self.compiled:
            shown = expose(self.model, outputs)
            bind_shapes(shown, inputs)
            self.compiled[key] = _compile(shown)
        results = self.compiled[key](dict(inputs))
        return {name: results[i] for i, name in enumerate(outputs)}


def open_session(path: Path) -> Session:
    """Return the exported model in ``path``, ready to run.

    Raises:
        ModelError: It cannot be read.
    """
    return OpenvinoSession(inline_local_functions(load_model(path)))


def _compile(model: onnx.ModelProto) -> Any:
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(model.SerializeToString()), "CPU", SETTINGS)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("Exception from")), "")
        raise PlanError(f"OpenVINO cannot run the exported model: {reason or lines[-1]}") from None
