"""What onnxruntime's own quantiser takes to make int8 layers like an export's: ``TensorQuantOverrides``.

A provider that wants the fp32 model and overrides (QNN, say) gets them in JSON: tensor to one entry, or one for each
output channel, with ``quant_type``, ``scale`` and ``zero_point``. Only tensors of the user's own file are named.
"""

import json
from pathlib import Path
from typing import Any

from mpsearch.cost.executed.onnxruntime import is_static_int8, never_negative, view_graph
from mpsearch.export.onnx.canonical import Weights
from mpsearch.export.onnxruntime.operands import MIDDLE
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.constants import Constants
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan

FILE = "tensor_quant_overrides.json"

Overrides = dict[str, list[dict[str, Any]]]


def write_overrides(plan: Plan, graph: ModelGraph, weights: Weights, folder: Path) -> list[Path]:
    """Write the overrides of int8 layers into ``folder``; no file where there are none."""
    found = find_overrides(plan, graph, weights)
    if not found:
        return []
    path = folder / FILE
    path.write_text(json.dumps(found, indent=1) + "\n")
    return [path]


def find_overrides(plan: Plan, graph: ModelGraph, weights: Weights) -> Overrides:
    """Return tensor → overrides, of all that int8 layers read.

    Args:
        plan: Made for ``graph``.
        graph: The folded model.
        weights: Gives the simulation's own weights.
    """
    view, found = view_graph(graph), Overrides()
    for index, (layer, scheme) in enumerate(
        zip(graph.layers, plan_schemes(plan, graph), strict=True)
    ):
        if not is_static_int8(scheme) or layer.name not in view.nodes:
            continue
        for number, gemm in enumerate(layer.gemms):
            for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
                seen = plan.find_range(operand.value, scheme.activation)
                if operand.input_index >= 0 and seen is not None:
                    zero = 0 if never_negative(view, operand.value) else MIDDLE
                    found[operand.value] = [_entry(seen.scale or 1.0, zero)]
            name = gemm.right.value
            if not gemm.has_weight or not _is_own(graph, name):
                continue
            stored = weights(index, number, scheme)
            assert stored.scales is not None  # of a static int8 scheme
            entries = [_entry(float(scale), MIDDLE) for scale in stored.scales.flatten()]
            if scheme.weight.granularity == "channel":
                entries[0]["axis"] = stored.layout.row_axis
            found[name] = entries
    return found


def _entry(scale: float, zero: int) -> dict[str, Any]:
    return {"quant_type": "QUInt8", "scale": scale, "zero_point": zero}


def _is_own(graph: ModelGraph, name: str) -> bool:
    """Whether a constant is one of the user's file, unchanged by folding."""
    constants = graph.constants
    if not isinstance(constants, Constants):
        return False
    own, now = constants.originals.get(name), constants.entries.get(name)
    return own is not None and now is not None and now.source == name and own.shape == now.shape
