"""The canonical ONNX export: what every other lowering is proven equal to."""

from pathlib import Path

import onnx

from mpsearch.errors import PlanError
from mpsearch.export.onnx.canonical import Weights, build_canonical
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.plan import Plan

_LARGEST = 2**31 - 2**24
"""Bytes of one protobuf file, less room for the graph; what is more goes to a file beside it."""


def export(plan: Plan, graph: ModelGraph, weights: Weights, folder: Path) -> list[Path]:
    """Write ``model.onnx`` into ``folder`` and return the files written.

    Raises:
        PlanError: The plan does not fit, or ONNX cannot say what one of its schemes does.
    """
    model = build_canonical(plan, graph, weights)
    path = folder / "model.onnx"
    large = model.ByteSize() > _LARGEST
    try:
        onnx.save_model(model, path, save_as_external_data=large, location="model.onnx.data")
        _check(model, path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PlanError(f"the exported model must be valid ONNX, but {error}") from error
    return [path, folder / "model.onnx.data"] if large else [path]


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
