"""Costs of a network on the reference NPU: rooflines, and switches along the schedule.

The machine: 4 clusters × 16 tiles × 20 × 20 MACs, one instruction stream. Where the compute format
changes between two consecutive kernels, the arrays switch, rearrange and flush: 15 cycles, in
parallel over the clusters. Conversions of activations hide within them.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mpsearch.cost.device import Device, NpuOverheads
from mpsearch.cost.gemm import executed_macs
from mpsearch.cost.kernels import (
    Kernel,
    group_of_layers,
    group_weights,
    layer_latencies,
    lower,
    mask_schemes,
    sum_groups,
    sum_pairs,
)
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Floats


def estimate(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device,
    *,
    batch: int = 1,
    tokens: int | None = None,
) -> Costs:
    """Price every group at every scheme: the larger of computing and moving, and the energy.

    Raises:
        DeviceError: The device file has no [npu] table.
    """
    if device.npu is None:
        raise DeviceError(f"{device.name}: model npu needs an [npu] table")
    mask, reasons = mask_schemes(graph, space, device)
    layers = lower(graph, batch=batch, tokens=tokens)
    latency = sum_groups(graph, layer_latencies(device, space, layers, mask))
    energy = sum_groups(graph, _energies(device.npu, space, layers))
    latency[~mask] = energy[~mask] = 0.0
    stored, parameters = group_weights(graph, space.schemes, mask)
    edges, pairs = sum_pairs(_switches(graph, space, device.npu), len(space.schemes))
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
        pair_terms={"latency_us": pairs},
        parameters=parameters,
        reasons=reasons,
        batch=batch,
    )


def _energies(npu: NpuOverheads, space: SearchSpace, layers: Sequence[Sequence[Kernel]]) -> Floats:
    """[L, S] microjoules of the executed operations."""
    result = np.zeros((len(layers), len(space.schemes)))
    for s, scheme in enumerate(space.schemes):
        per_op = npu.picojoule_per_op.get(scheme.rate, 0.0)
        if scheme.sparsity is not None:
            per_op *= npu.sparse_energy
        for i, kernels in enumerate(layers):
            macs = sum(executed_macs(scheme, kernel.gemm) for kernel in kernels)
            result[i, s] = 2 * macs * per_op / 1e6
    return result


def _switches(
    graph: ModelGraph, space: SearchSpace, npu: NpuOverheads
) -> Iterator[tuple[int, int, Floats]]:
    """Yield (group, group, [S, S] microseconds) of consecutive layers in different groups."""
    group_of = group_of_layers(graph)
    rates = [scheme.rate for scheme in space.schemes]  # sparse and dense kernels share a setting
    cost = npu.switch_cycles / (npu.clock_ghz * 1e3)
    term = np.array([[0.0 if a == b else cost for b in rates] for a in rates])
    for i in range(len(graph.layers) - 1):
        if group_of[i] != group_of[i + 1]:
            yield group_of[i], group_of[i + 1], term
