"""OpenVINO as it is timed: one thread, its own settings, sizes fixed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import openvino
from numpy.typing import NDArray
from onnx.inliner import inline_local_functions

from mpsearch.errors import PlanError
from mpsearch.profile.timed_runtime import Layouts
from mpsearch.runtimes.session import bind_shapes, load_model

Array = NDArray[Any]

SETTINGS = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
"""One thread, which is the caller's; fp32 as the plan says, not the processor's bf16."""


@dataclass(frozen=True, slots=True)
class OpenvinoTimed:
    """OpenVINO, whose kernels round what they read themselves."""

    name: str = "openvino"
    version: str = f"openvino {openvino.__version__.split('-')[0]}"
    has_boundaries: bool = False

    def open_timed(
        self, model: onnx.ModelProto | Path, feeds: Mapping[str, Array]
    ) -> Callable[[], None]:
        """Return what runs ``model`` once on ``feeds``.

        Raises:
            PlanError: OpenVINO cannot load or run it.
        """
        loaded = load_model(model) if isinstance(model, Path) else model
        shown = onnx.ModelProto()
        shown.CopyFrom(loaded)
        bind_shapes(shown, feeds)
        try:
            read = openvino.Core().read_model(inline_local_functions(shown).SerializeToString())
            request = openvino.Core().compile_model(read, "CPU", SETTINGS).create_infer_request()
            given = dict(feeds)
            request.infer(given)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise PlanError(f"OpenVINO cannot run the model: {lines[-1]}") from None

        def run() -> None:
            request.infer(given)

        return run

    def find_shares(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array]
    ) -> list[tuple[str, str, float]]:
        """Return nothing: roundings are not kernels of their own."""
        return []

    def layouts(self, model: Path) -> Layouts:
        """Return nothing: layouts are not told apart."""
        return Layouts()


RUNTIME = OpenvinoTimed()
