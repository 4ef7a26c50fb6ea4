"""Layers that a runtime runs as one: they share a scheme, and the scale of the whole weight.

vLLM and TensorRT-LLM stack q, k and v, and gate and up, into one matrix. Of nvfp4 global scales that differ between the
parts vLLM takes one for all, without a change of the blocks' own: the weights would be others than those that were measured.
"""

from collections.abc import Iterable, Iterator, Sequence
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
    """Return the sets of layers that read one tensor within one module, such as q, k and v: two or more each.

    What a runtime fuses is such a set, or a part of one.
    """
    return _by_input_and_parent(graph, range(len(graph.layers)))


def check_fused(graph: ModelGraph, schemes: Sequence[Scheme]) -> None:
    """Check that layers which the graph knows to be fused have one scheme.

    Raises:
        PlanError: They differ; the message names them.
    """
    for group in graph.groups:
        for members in _by_input_and_parent(graph, group.layers):
            if len({schemes[i].name for i in members}) > 1:
                told = ", ".join(f"{module_of(graph.layers[i])} {schemes[i].name}" for i in members)
                raise PlanError(
                    f"layers that read one tensor must share one scheme, since runtimes fuse them, got {told}"
                )


def share_scales(plan: Plan, graph: ModelGraph) -> Plan:
    """Return ``plan`` with fused layers rounded at one scale of the whole weight, the largest of theirs.

    Weights that this changes are tensors of the returned plan, so that it is simulated as it is stored.

    Raises:
        PlanError: The plan is for another model.
    """
    schemes, changes = plan_schemes(plan, graph), changes_of(plan, graph)
    planned, weights = planned_weights(graph, changes), dict(changes.weights)
    for members in _of_one_scheme(graph, schemes):
        scheme = schemes[members[0]]
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


def _of_one_scheme(graph: ModelGraph, schemes: Sequence[Scheme]) -> Iterator[list[int]]:
    """Fused layers with one scheme whose weights have a scale of the whole."""
    for members in fused_layers(graph):
        for name in dict.fromkeys(schemes[i].name for i in members):
            alike = [i for i in members if schemes[i].name == name]
            if len(alike) > 1 and _has_whole_scale(schemes[alike[0]].weight):
                yield alike


def _by_input_and_parent(graph: ModelGraph, layers: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    found: dict[tuple[str, str], list[int]] = {}
    for index in layers:
        layer = graph.layers[index]
        parent, dot, _ = module_of(layer).rpartition(".")
        if layer.has_weight and dot:
            found.setdefault((layer.gemms[0].left.value, parent), []).append(index)
    return tuple(tuple(members) for members in found.values() if len(members) > 1)


def _has_whole_scale(spec: Spec) -> bool:
    return spec.tensor_scale or (spec.granularity == "tensor" and not spec.is_cast)


def _whole_scale(weight: QuantizedTensor) -> float:
    if weight.spec.tensor_scale:
        return weight.tensor_scale
    assert weight.scales is not None  # of a spec per tensor with scales
    return float(torch.max(weight.scales))
