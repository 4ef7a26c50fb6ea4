"""Layers that a runtime runs as one: they share a scheme, and the scale of the whole weight.

vLLM and TensorRT-LLM stack q, k and v, and gate and up, into one matrix. Of nvfp4 global scales that differ between the
parts vLLM takes one for all, without a change of the blocks' own: the weights would be others than those that were measured.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mpsearch.errors import PlanError
from mpsearch.export.checkpoint.modules import module_of
from mpsearch.export.planned import planned_weights
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.requantize import rescale
from mpsearch.plan.changes import bring_changes, changes_of
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.program.tensors import to_tensor
from mpsearch.schemes import Scheme, Spec


def fused_layers(graph: ModelGraph) -> tuple[tuple[int, ...], ...]:
    """Return the sets of layers that read one tensor within one module, such as q, k and v: two or more each."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, layer in enumerate(graph.layers):
        parent, dot, _ = module_of(layer).rpartition(".")
        if layer.has_weight and dot:
            found.setdefault((layer.gemms[0].left.value, parent), []).append(index)
    return tuple(tuple(members) for members in found.values() if len(members) > 1)


def check_fused(graph: ModelGraph, schemes: Sequence[Scheme]) -> None:
    """Check that layers which runtimes fuse have one scheme.

    Raises:
        PlanError: They differ; the message names them.
    """
    for members in fused_layers(graph):
        names = {schemes[i].name for i in members}
        if len(names) > 1:
            listed = ", ".join(f"{module_of(graph.layers[i])} {schemes[i].name}" for i in members)
            raise PlanError(
                f"layers that read one tensor must share one scheme, since runtimes fuse them, got {listed}"
            )


def share_scales(plan: Plan, graph: ModelGraph) -> Plan:
    """Return ``plan`` with fused layers rounded at one scale of the whole weight, the largest of theirs.

    Weights that this changes are tensors of the returned plan, so that it is simulated as it is stored.

    Raises:
        PlanError: The plan is for another model.
    """
    schemes, changes = plan_schemes(plan, graph), changes_of(plan, graph)
    planned, weights = planned_weights(graph, changes), dict(changes.weights)
    for members in fused_layers(graph):
        scheme = schemes[members[0]]
        if len({schemes[i].name for i in members}) > 1 or not _has_whole_scale(scheme.weight):
            continue
        stored = {i: planned(i, 0, scheme) for i in members}
        shared = max(map(_whole_scale, stored.values()))
        for i, weight in stored.items():
            if _whole_scale(weight) == shared:
                continue
            values = weight.dequantize()
            if (i, 0) not in changes.weights:
                name = planned.graph.layers[i].gemms[0].right.value
                values = to_tensor(planned.graph.constants[name])
            weights[i, 0] = rescale(values, weight, shared)
    if weights.keys() == changes.weights.keys() and all(
        weights[at] is changes.weights[at] for at in weights
    ):
        return plan
    return bring_changes(plan, graph, replace(changes, weights=weights))


def _has_whole_scale(spec: Spec) -> bool:
    return spec.tensor_scale or (spec.granularity == "tensor" and not spec.is_cast)


def _whole_scale(weight: QuantizedTensor) -> float:
    if weight.spec.tensor_scale:
        return weight.tensor_scale
    assert weight.scales is not None  # of a spec per tensor with scales
    return float(torch.max(weight.scales))
