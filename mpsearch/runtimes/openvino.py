"""OpenVINO on a CPU.

Run in fp32 throughout, weights as the export has them: without bf16 inference, without activations quantised
on the fly, and without the integer transformations, which refuse models that mix int8 with nvfp4. Local functions
are expanded first, and shapes are fixed: blocks need a known size. fp16 round trips are left out by the
runtime, which computes such layers in fp32; bf16 ones too on processors without instructions for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from onnx.inliner import inline_local_functions

from mpsearch.errors import PlanError
from mpsearch.runtimes.rounding import Rounding
from mpsearch.runtimes.session import Array, Session, bind_shapes, expose, load_model, run_error
from mpsearch.runtimes.settings import OPENVINO


@dataclass(frozen=True, slots=True)
class OpenvinoSession:
    """An exported model in OpenVINO, compiled once for each set of shapes and outputs."""

    model: onnx.ModelProto
    rounding: Rounding
    note: str
    compiled: dict[object, Any] = field(default_factory=dict)
    is_standard: bool = False

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named values, intermediate ones included.

        Raises:
            PlanError: OpenVINO refuses the model, or fails while it runs.
        """
        shapes = tuple(sorted((name, x.shape) for name, x in inputs.items()))
        key = (shapes, tuple(outputs))
        if key not in self.compiled:
            shown = expose(self.model, outputs)
            bind_shapes(shown, inputs)
            self.compiled[key] = _compile(shown)
        try:
            results = self.compiled[key](dict(inputs))
        except Exception as error:  # whatever a plug-in raises
            raise run_error("OpenVINO", error) from None
        return {name: results[i] for i, name in enumerate(outputs)}


def open_session(path: Path) -> Session:
    """Open an export in OpenVINO on the processor (extra ``openvino``).

    Raises:
        ModelError: It cannot be read.
    """
    left_out = find_left_out()
    return OpenvinoSession(
        inline_local_functions(load_model(path)),
        Rounding(through_half=True, left_out=left_out),
        "int8 runs as fp32 arithmetic on int8 codes"
        + "".join(f"; {name} layers compute in fp32" for name in sorted(left_out)),
    )


@cache
def find_left_out() -> frozenset[str]:
    """Return the 16-bit formats that OpenVINO leaves out on this processor: casts there and back change nothing."""
    x = np.linspace(0.1, 1, 64, dtype=np.float32)
    kinds = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)
    same = set()
    for name, kind in kinds.items():
        nodes = [
            onnx.helper.make_node("Cast", ["x"], ["half"], to=kind),
            onnx.helper.make_node("Cast", ["half"], ["y"], to=onnx.TensorProto.FLOAT),
        ]
        result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, x.shape)
        graph = onnx.helper.make_graph(nodes, "casts", [shape], [result])
        opset = onnx.helper.make_opsetid("", 21)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
        if np.array_equal(_compile(model)({"x": x})[0], x):
            same.add(name)
    return frozenset(same)


def _compile(model: onnx.ModelProto) -> Any:
    core = openvino.Core()
    try:
        read = core.read_model(model.SerializeToString())
        shown = openvino.preprocess.PrePostProcessor(read)
        for i, output in enumerate(read.outputs):
            if output.element_type.get_type_name() in (
                "f16",
                "bf16",
            ):  # as they are, where left out
                shown.output(i).tensor().set_element_type(openvino.Type.f32)
        return core.compile_model(shown.build(), "CPU", OPENVINO)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("Exception from")), "")
        raise PlanError(f"OpenVINO cannot run the exported model: {reason or lines[-1]}") from None
