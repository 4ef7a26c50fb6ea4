"""The canonical ONNX export: what every other lowering is proven equal to."""

from pathlib import Path

from mpsearch.export.onnx.canonical import Weights, build_canonical
from mpsearch.export.onnx.write_model import write_model
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.plan import Plan


def export(plan: Plan, graph: ModelGraph, weights: Weights, folder: Path) -> list[Path]:
    """Write ``model.onnx`` into ``folder`` and return the files written.

    Raises:
        PlanError: The plan does not fit, or ONNX cannot say what one of its schemes does.
    """
    return write_model(build_canonical(plan, graph, weights), folder)
