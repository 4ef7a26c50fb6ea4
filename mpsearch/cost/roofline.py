"""Costs of a network on a GPU or CPU: one kernel a layer, conversions where activations change."""

from dataclasses import replace

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.kernels import (
    group_weights,
    layer_latencies,
    lower,
    mask_schemes,
    sum_groups,
    sum_pairs,
)
from mpsearch.cost.lowering import find_conversions
from mpsearch.cost.operators import other_kernels
from mpsearch.cost.products import element_bytes
from mpsearch.cost.values import Sizes, value_bytes
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.space.space import SearchSpace


def estimate(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device,
    *,
    batch: int = 1,
    tokens: int | None = None,
    context: int | None = None,
) -> Costs:
    """Price every group at every scheme by the smooth roofline of :mod:`mpsearch.cost.gemm`.

    A layer writes its result in the base format; conversions are those of :mod:`mpsearch.cost.lowering`. Operators
    that are no layers move their bytes, and are the constant of ``latency_us``.
    """
    mask, reasons = mask_schemes(graph, space, device)
    layers = lower(graph, batch=batch, tokens=tokens, context=context)
    kernels, errors = layer_latencies(device, space, layers, mask)
    conversions = find_conversions(graph, space, device, layers)
    latency = sum_groups(graph, kernels) + conversions.reads
    stderr = sum_groups(graph, errors) + conversions.reads * device.relative_error
    latency[~mask] = stderr[~mask] = 0.0
    stored, parameters = group_weights(graph, space.schemes, mask)

    others = _others_us(graph, space, device, Sizes(batch, tokens, context))
    edges, pairs = sum_pairs(conversions.pairs, len(space.schemes))
    costs = Costs(
        device=device.name,
        groups=tuple(group.name for group in graph.groups),
        schemes=space.names,
        objectives={"latency_us": latency, "weight_bytes": stored},
        stderr={
            "latency_us": stderr,
            "weight_bytes": np.zeros_like(stored),
        },
        allowed=mask,
        edges=edges,
        pair_terms={"latency_us": pairs},
        parameters=parameters,
        constants={"latency_us": others},
        reasons=reasons,
        batch=batch,
    )
    return costs if device.max_power_w is None else _with_energy(costs, device.max_power_w)


def _with_energy(costs: Costs, power_w: float) -> Costs:
    """Energy, at most: the board's power limit for as long as it runs."""
    name = "latency_us"
    return replace(
        costs,
        objectives={**costs.objectives, "energy_uj": costs.objectives[name] * power_w},
        stderr={**costs.stderr, "energy_uj": costs.stderr[name] * power_w},
        pair_terms={**costs.pair_terms, "energy_uj": costs.pair_terms[name] * power_w},
        constants={**costs.constants, "energy_uj": costs.constants[name] * power_w},
    )


def _others_us(graph: ModelGraph, space: SearchSpace, device: Device, sizes: Sizes) -> float:
    """Microseconds of operators that are no layers: a launch each, and the bytes that they move."""
    base = space.schemes[space.index(space.base)].activation
    bytes_of = value_bytes(graph, element_bytes(base), sizes)
    kernels = other_kernels(graph, space.fusing)
    launches = device.launch_us * sum(not kernel.layer for kernel in kernels)
    moved = sum(kernel.bytes(bytes_of) for kernel in kernels)
    return launches + moved / (device.bandwidth_gb_s * 1e3 * device.memory_efficiency)
