"""Costs of a network on a GPU or CPU: one kernel a layer, conversions where activations change."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mpsearch.cost.device import Device
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
from mpsearch.cost.products import element_bytes
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.schemes import Spec
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
    """Price every group at every scheme by the smooth roofline of :mod:`mpsearch.cost.gemm`.

    A layer writes its result in the base format. Where the reader takes a narrower activation, a
    conversion pass is charged to the edge, unless writer and reader take the same static spec: then
    the writer's epilogue does it. What several layers feed, a residual sum say, was merged in the base
    format: its conversion is the reader's own. A tensor that several layers of one group read is
    converted once; readers in different groups convert for themselves.
    """
    mask, reasons = mask_schemes(graph, space, device)
    layers = lower(graph, batch=batch, tokens=tokens, context=context)
    kernels, errors = layer_latencies(device, space, layers, mask)
    reads = sum_groups(graph, _reads(graph, space, device, layers))
    latency = sum_groups(graph, kernels) + reads
    stderr = sum_groups(graph, errors) + reads * device.relative_error
    latency[~mask] = stderr[~mask] = 0.0
    stored, parameters = group_weights(graph, space.schemes, mask)

    def energy(latency_us: Floats) -> dict[str, Floats]:
        """At most: the board's power limit for as long as it runs."""
        return {} if device.max_power_w is None else {"energy_uj": latency_us * device.max_power_w}

    edges, pairs = sum_pairs(_conversions(graph, space, device, layers), len(space.schemes))
    return Costs(
        device=device.name,
        groups=tuple(group.name for group in graph.groups),
        schemes=space.names,
        objectives={"latency_us": latency, "weight_bytes": stored, **energy(latency)},
        stderr={
            "latency_us": stderr,
            "weight_bytes": np.zeros_like(stored),
            **energy(stderr),
        },
        allowed=mask,
        edges=edges,
        pair_terms={"latency_us": pairs, **energy(pairs)},
        parameters=parameters,
        reasons=reasons,
        batch=batch,
    )


def _reads(
    graph: ModelGraph, space: SearchSpace, device: Device, layers: Sequence[Sequence[Kernel]]
) -> Floats:
    """[L, S] conversion that the reader alone decides: of what the network is given, and of merged results.

    What several layers feed (a residual sum) is written in the base format by the operator that merges
    it, whatever those layers run in. Layers of one group that read one tensor pay once.
    """
    base = space.schemes[space.index(space.base)].activation
    group_of, sources = group_of_layers(graph), Counter(edge.target for edge in graph.edges)
    result = np.zeros((len(graph.layers), len(space.schemes)))
    paid = set()
    for i, kernels in enumerate(layers):
        key = (group_of[i], graph.layers[i].gemms[0].left.value)
        if 0 < sources[i] <= _operands(graph.layers[i]) or key in paid:
            continue
        paid.add(key)
        n = sum(kernel.input_elements for kernel in kernels)
        result[i] = [
            _conversion_us(device, base, base, scheme.activation, n) for scheme in space.schemes
        ]
    return result


def _conversions(
    graph: ModelGraph, space: SearchSpace, device: Device, layers: Sequence[Sequence[Kernel]]
) -> Iterator[tuple[int, int, Floats]]:
    """Yield (group, group, [S, S] microseconds) of each edge that one layer alone feeds."""
    base = space.schemes[space.index(space.base)].activation
    group_of, sources = group_of_layers(graph), Counter(edge.target for edge in graph.edges)
    seen = set()
    for edge in graph.edges:
        writer, reader = group_of[edge.source], group_of[edge.target]
        target = graph.layers[edge.target]
        key = (edge.source, reader, target.gemms[0].left.value)
        if writer == reader or key in seen or sources[edge.target] > _operands(target):
            continue
        seen.add(key)
        own = max(1, target.input_elements)
        n = edge.elements * sum(k.input_elements for k in layers[edge.target]) / own
        yield (
            writer,
            reader,
            np.array(
                [
                    [
                        _conversion_us(device, base, a.activation, b.activation, n)
                        for b in space.schemes
                    ]
                    for a in space.schemes
                ]
            ),
        )


def _operands(layer: Layer) -> int:
    """Activations that a layer multiplies."""
    return 1 if layer.gemms[0].has_weight else 2


def _conversion_us(device: Device, base: Spec, writer: Spec, reader: Spec, n: float) -> float:
    """What bringing ``n`` elements into the reader's spec takes, beside the kernels' own traffic."""
    fused = writer == reader and reader.range == "static"
    if fused or (reader.is_cast and (writer.is_cast or device.dequantize_ns == 0)):
        return 0.0
    passes = 2 if reader.range == "dynamic" else 1  # the range is read before it is applied
    moved = n * (element_bytes(base) * passes + element_bytes(reader))
    per_element = device.dequantize_ns if reader.is_cast else device.quantize_ns
    bandwidth = device.bandwidth_gb_s * 1e3 * device.memory_efficiency
    return device.launch_us + moved / bandwidth + n * per_element / 1e3
