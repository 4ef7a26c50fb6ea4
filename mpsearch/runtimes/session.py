"""What a runtime must offer to be verified against, and models that show their inside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import onnx
from numpy.typing import NDArray

from mpsearch.errors import ModelError, PlanError
from mpsearch.runtimes.rounding import Rounding

Array = NDArray[Any]


class Session(Protocol):
    """An exported model in one runtime.

    Attributes:
        rounding: What the runtime documents about its rounding.
        note: What a reader of the result must know about how it was run; "" if nothing.
        is_standard: It is the standard itself, where runtimes agree against that.
    """

    @property
    def rounding(self) -> Rounding: ...  # noqa: D102

    @property
    def note(self) -> str: ...  # noqa: D102

    @property
    def is_standard(self) -> bool: ...  # noqa: D102

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named values, intermediate ones included.

        Raises:
            PlanError: The runtime refuses the model, or fails while it runs.
        """
        ...


class Deployed(Protocol):
    """An exported model as its runtime runs it when nothing is said.

    Attributes:
        kernels: (kernel, name) of each node of the optimised model.
    """

    @property
    def kernels(self) -> Sequence[tuple[str, str]]: ...  # noqa: D102

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the model's own outputs.

        Raises:
            PlanError: The runtime fails while it runs.
        """
        ...


@runtime_checkable
class Deployable(Protocol):
    """A session whose runtime optimises more than a proof allows."""

    def deploy(self) -> Deployed:
        """Return the model with the runtime's own defaults.

        Raises:
            PlanError: The runtime refuses it so.
        """
        ...


def run_error(runtime: str, error: Exception, node: str = "") -> PlanError:
    """Return the error of a runtime that failed while it ran: one line with runtime, node and reason.

    Args:
        runtime: Its name.
        error: What it raised.
        node: The node that failed, where the runtime does not say it itself.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    reason = " ".join((told or lines)[:3]) or type(error).__name__
    at = f" at node {node}" if node else ""
    return PlanError(f"{runtime} failed{at} while it ran the exported model: {reason}")


def find_model(exported: str | Path | Sequence[str | Path]) -> Path:
    """Return the ONNX file of an export.

    Args:
        exported: Its folder, its file, or the paths that the export returned.

    Raises:
        PlanError: There is no ``.onnx`` file, or more than one.
    """
    given = [exported] if isinstance(exported, str | Path) else list(exported)
    paths = [Path(path) for path in given]
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(paths[0].glob("*.onnx"))
    models = [path for path in paths if path.suffix == ".onnx"]
    if len(models) != 1:
        raise PlanError(f"an export must hold one .onnx file to be verified, got {len(models)}")
    return models[0]


def load_model(path: Path) -> onnx.ModelProto:
    """Return the exported model.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf, the file system, external data
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path.name}: must be a readable ONNX model: {reason[0]}") from None


def expose(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return ``model`` with exactly ``outputs`` as its outputs, without copying its weights twice.

    Raises:
        PlanError: The model has no value of such a name.
    """
    made = {name for node in model.graph.node for name in node.output}
    missing = [name for name in outputs if name not in made]
    if missing:
        raise PlanError(
            f"the export must hold the value {missing[0]!r} of the plan's model, it does not"
        )
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    declared = {value.name: value for value in model.graph.output}
    del shown.graph.output[:]
    for name in outputs:
        value = declared.get(name) or onnx.helper.make_empty_tensor_value_info(name)
        shown.graph.output.append(value)
    return shown


def bind_shapes(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> None:
    """Give the model's inputs the shapes of ``inputs``, in place; inferred shapes are dropped."""
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name in inputs:
            kind = value.type.tensor_type
            kind.shape.ClearField("dim")
            for size in inputs[value.name].shape:
                kind.shape.dim.add().dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
