"""Costs of a network on the reference NPU: its arrays' kernels, and switches along the schedule.

The machine: 4 clusters × 16 tiles × 20 × 20 MACs, one instruction stream. Where the compute format
changes between two consecutive kernels, the arrays switch, rearrange and flush: 15 cycles, in
parallel over the clusters. Converting an activation takes 1 cycle up or 2 down, which hide within a
switch, and behind the kernels between a writer and a later reader.
"""

from collections.abc import Iterator

import numpy as np

from mpsearch.cost.arrays import work
from mpsearch.cost.device import Device
from mpsearch.cost.kernels import (
    collect_kernels,
    group_of_layers,
    group_weights,
    lower,
    mask_schemes,
    sum_groups,
    sum_pairs,
)
from mpsearch.cost.npu_device import Npu
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.schemes import Scheme
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Floats


def estimate(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device,
    *,
    batch: int = 1,
    tokens: int | None = None,
    context: int | None = None,
) -> Costs:
    """Price every group at every scheme: the larger of computing and moving, and the energy.

    Raises:
        DeviceError: The device file has no [npu] table.
    """
    npu = device.npu
    if npu is None:
        raise DeviceError(f"{device.name}: model npu needs an [npu] table")
    mask, reasons = mask_schemes(graph, space, device)
    products, layer_of = collect_kernels(lower(graph, batch=batch, tokens=tokens, context=context))
    out = space.schemes[space.index(space.base)].activation
    layers = np.zeros((2, len(graph.layers), len(space.schemes)))
    for s, scheme in enumerate(space.schemes):
        if mask[:, s].any():
            done = work(device, scheme, products, out=out)
            for o, values in enumerate((done.latency_us, done.energy_uj)):
                layers[o, :, s] = np.bincount(layer_of, values, len(graph.layers))
    latency, energy = (sum_groups(graph, values) for values in layers)
    latency[~mask] = energy[~mask] = 0.0
    stored, parameters = group_weights(graph, space, mask)
    edges, pairs = sum_pairs(switches(graph, space, npu), len(space.schemes))
    return Costs(
        device=device.name,
        groups=tuple(group.name for group in graph.groups),
        schemes=space.names,
        objectives={"latency_us": latency, "weight_bytes": stored, "energy_uj": energy},
        stderr={
            "latency_us": latency * device.relative_error,
            "weight_bytes": np.zeros_like(stored),
            "energy_uj": energy * device.relative_error,
        },
        allowed=mask,
        edges=edges,
        pair_terms={"latency_us": pairs, "energy_uj": pairs * (npu.static_w or 0.0)},
        parameters=parameters,
        reasons=reasons,
        batch=batch,
    )


def switches(graph: ModelGraph, space: SearchSpace, npu: Npu) -> Iterator[tuple[int, int, Floats]]:
    """Yield (group, group, [S, S] microseconds) of consecutive layers in different groups."""
    group_of = group_of_layers(graph)
    flows = {(edge.source, edge.target) for edge in graph.edges}
    cycles = {
        fed: np.array([[_boundary(npu, a, b, fed) for b in space.schemes] for a in space.schemes])
        for fed in (False, True)
    }
    for i in range(len(graph.layers) - 1):
        if group_of[i] != group_of[i + 1]:
            term = cycles[(i, i + 1) in flows] / (npu.clock_ghz * 1e3)
            yield group_of[i], group_of[i + 1], term


def _boundary(npu: Npu, before: Scheme, after: Scheme, fed: bool) -> float:
    """Cycles between two kernels; ``fed``: the second reads what the first wrote."""
    if before.rate != after.rate:  # sparse and dense kernels share a setting
        return npu.switch_cycles
    if not fed or before.activation == after.activation:
        return 0.0
    up = after.activation.element.bits > before.activation.element.bits
    return (npu.convert_up_cycles if up else npu.convert_down_cycles) or 0.0
