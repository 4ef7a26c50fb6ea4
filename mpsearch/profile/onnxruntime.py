"""onnxruntime as it is timed: one thread, default optimisations; and what kernels a model's time goes to."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from mpsearch.errors import PlanError
from mpsearch.profile.timed_runtime import Layouts

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class OnnxruntimeTimed:
    """onnxruntime on the processor, in one thread."""

    name: str = "onnxruntime"
    version: str = f"onnxruntime {onnxruntime.__version__}"
    has_boundaries: bool = True

    def open_timed(
        self, model: onnx.ModelProto | Path, feeds: Mapping[str, Array]
    ) -> Callable[[], None]:
        """Return what runs ``model`` once on ``feeds``, in the calling thread alone.

        Raises:
            PlanError: onnxruntime cannot load or run it.
        """
        return open_timed(model, feeds)

    def find_shares(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array]
    ) -> list[tuple[str, str, float]]:
        """Return (operator, node, share of the time) of each kernel that runs, in order."""
        return find_shares(model, feeds)

    def layouts(self, model: Path) -> Layouts:
        """Return where the model changes the layout of a value for a convolution or behind one."""
        return find_layouts(model)


def open_timed(model: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> Callable[[], None]:
    """Return what runs ``model`` once on ``feeds``, in the calling thread alone.

    Raises:
        PlanError: onnxruntime cannot load or run it.
    """
    session = _open(model, _options())
    given = dict(feeds)

    def run() -> None:
        session.run(None, given)

    try:
        run()
    except Exception as error:  # onnxruntime's own types derive from Exception only
        raise PlanError(f"onnxruntime cannot run the model: {_line(error)}") from None
    return run


def find_shares(
    model: onnx.ModelProto | Path, feeds: Mapping[str, Array], *, runs: int = 30
) -> list[tuple[str, str, float]]:
    """Return (operator, node, share of the time) of each kernel that runs, in order.

    Args:
        model: The model.
        feeds: What it runs on.
        runs: Runs under the profiler; of a kernel's times the lower half counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = _options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _open(model, options)
        for _ in range(runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["args"]["op_name"], event["name"].removesuffix("_kernel_time")
            times.setdefault(key, []).append(float(event["dur"]))
    found = [(op, name, _low_mean(values)) for (op, name), values in times.items()]
    total = sum(took for _, _, took in found) or 1.0
    return [(op, name, took / total) for op, name, took in found]


def find_layouts(model: onnx.ModelProto | Path) -> Layouts:
    """Return where the model changes the layout of a value for a convolution or behind one."""
    with tempfile.TemporaryDirectory() as folder:
        options, path = _options(), Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        _open(model, options)
        nodes = onnx.load(path).graph.node
    entered = {node.input[0] for node in nodes if node.op_type == "ReorderInput"}
    left = {node.output[0] for node in nodes if node.op_type == "ReorderOutput"}
    return Layouts(tuple(sorted(entered)), tuple(sorted(left)))


def _low_mean(values: list[float]) -> float:
    """Mean of the lower half: times are whole microseconds, so that a quantile would be coarse."""
    ordered = np.sort(values)
    return float(ordered[: max(1, len(ordered) // 2)].mean())


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _open(model: onnx.ModelProto | Path, options: onnxruntime.SessionOptions) -> Any:
    given = model if isinstance(model, Path) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types derive from Exception only
        raise PlanError(f"onnxruntime cannot load the model: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


RUNTIME = OnnxruntimeTimed()
