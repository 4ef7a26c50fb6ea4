"""An exported model on disk: one valid file, or two where protobuf cannot hold it."""

from pathlib import Path

import onnx

from mpsearch.errors import PlanError

_LARGEST = 2**31 - 2**24
"""Bytes of one protobuf file, less room for the graph; what is more goes to a file beside it."""


def write_model(model: onnx.ModelProto, folder: Path, *, name: str = "model.onnx") -> list[Path]:
    """Write ``model`` as ``name`` into ``folder``, check it and return the files written.

    Raises:
        PlanError: It is no valid ONNX.
    """
    path = folder / name
    large = model.ByteSize() > _LARGEST
    try:
        onnx.save_model(model, path, save_as_external_data=large, location=f"{name}.data")
        _check(model, path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PlanError(f"the exported model must be valid ONNX, but {error}") from error
    return [path, folder / f"{name}.data"] if large else [path]


def _check(model: onnx.ModelProto, path: Path) -> None:
    """Check what was written; node by node where inputs or outputs have no known rank, which the checker wants."""
    values = (*model.graph.input, *model.graph.output)
    if all(v.type.tensor_type.HasField("shape") for v in values if v.type.HasField("tensor_type")):
        onnx.checker.check_model(path, full_check=True)
        return
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {o.domain: o.version for o in model.opset_import}
    for node in model.graph.node:
        onnx.checker.check_node(node, context)
