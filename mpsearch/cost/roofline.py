"""Costs of a network on a GPU or CPU: one kernel a layer, conversions where activations change."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.gemm import moved_bytes
from mpsearch.cost.kernels import (
    Kernel,
    collect_kernels,
    group_weights,
    layer_latencies,
    lower,
    mask_schemes,
    sum_groups,
    sum_pairs,
)
from mpsearch.cost.lowering import find_conversions
from mpsearch.cost.operators import OtherKernel, other_kernels
from mpsearch.cost.products import element_bytes
from mpsearch.cost.values import Sizes, value_bytes
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Bools, Floats


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
    stored, parameters = group_weights(graph, space, mask)

    sizes = Sizes(batch, tokens, context)
    others = sum(us for _, us in others_us(graph, space, device, sizes))
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
    if device.max_power_w is None and device.dram_picojoule_per_byte is None:
        return costs
    return _with_energy(
        costs, device, mask * sum_groups(graph, _moved(device, space, layers, mask))
    )


def _with_energy(costs: Costs, device: Device, moved: Floats) -> Costs:
    """Energy, at most: the board's power limit for as long as it runs, and ``moved`` [G, S] bytes."""
    power_w, name = device.max_power_w or 0.0, "latency_us"
    movement = moved * (device.dram_picojoule_per_byte or 0.0) / 1e6
    return replace(
        costs,
        objectives={**costs.objectives, "energy_uj": costs.objectives[name] * power_w + movement},
        stderr={**costs.stderr, "energy_uj": costs.stderr[name] * power_w},
        pair_terms={**costs.pair_terms, "energy_uj": costs.pair_terms[name] * power_w},
        constants={**costs.constants, "energy_uj": costs.constants[name] * power_w},
    )


def _moved(
    device: Device, space: SearchSpace, layers: Sequence[Sequence[Kernel]], mask: Bools
) -> Floats:
    """[L, S] bytes that kernels read and write; zeros where their energy is not known."""
    result = np.zeros((len(layers), len(space.schemes)))
    if device.dram_picojoule_per_byte is None:
        return result
    out = space.schemes[space.index(space.base)].activation
    products, layer_of = collect_kernels(layers)
    for s, scheme in enumerate(space.schemes):
        if mask[:, s].any():
            moved = moved_bytes(device, scheme, products, out).sum(axis=1)
            result[:, s] = np.bincount(layer_of, moved, len(layers))
    return result


def others_us(
    graph: ModelGraph, space: SearchSpace, device: Device, sizes: Sizes
) -> Iterator[tuple[OtherKernel, float]]:
    """Yield the kernels of operators that are no layers, and what they take: a launch each, and their bytes."""
    base = space.schemes[space.index(space.base)].activation
    bytes_of = value_bytes(graph, element_bytes(base), sizes)
    bandwidth = device.bandwidth_gb_s * 1e3 * device.memory_efficiency
    for kernel in other_kernels(graph, space.fusing):
        launch = 0.0 if kernel.layer else device.launch_us
        yield kernel, launch + kernel.bytes(bytes_of) / bandwidth
