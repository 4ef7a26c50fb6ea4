"""Costs of a network on a GPU or CPU: one kernel a layer, conversions where activations change."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.kernel import element_bytes
from mpsearch.cost.lowering import (
    Kernel,
    group_of_layers,
    group_weights,
    layer_latencies,
    lower,
    mask_schemes,
    sum_groups,
    sum_pairs,
)
from mpsearch.graph.model import ModelGraph
from mpsearch.schemes import Spec
from mpsearch.space import SearchSpace
from mpsearch.tables import Costs, Floats


def estimate(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device,
    *,
    batch: int = 1,
    tokens: int | None = None,
) -> Costs:
    """Price every group at every scheme by the smooth roofline of :mod:`mpsearch.cost.kernel`.

    A layer writes its result in the base format. Where the reader takes a narrower activation, a
    conversion pass is charged to the edge, unless writer and reader take the same static spec: then
    the writer's epilogue does it. A tensor that several layers of one group read is converted once,
    a sum of several layers' results too; readers in different groups convert for themselves.
    """
    mask, reasons = mask_schemes(graph, space, device)
    layers = lower(graph, batch=batch, tokens=tokens)
    latency = sum_groups(graph, layer_latencies(device, space, layers, mask))
    latency += sum_groups(graph, _entries(graph, space, device, layers))
    latency[~mask] = 0.0
    stored, parameters = group_weights(graph, space.schemes, mask)
    edges, pairs = sum_pairs(_conversions(graph, space, device, layers), len(space.schemes))
    return Costs(
        device=device.name,
        groups=tuple(group.name for group in graph.groups),
        schemes=space.names,
        objectives={"latency_us": latency, "weight_bytes": stored},
        stderr={
            "latency_us": latency * device.relative_error,
            "weight_bytes": np.zeros_like(stored),
        },
        allowed=mask,
        edges=edges,
        pair_terms={"latency_us": pairs},
        parameters=parameters,
        reasons=reasons,
        batch=batch,
    )


def _entries(
    graph: ModelGraph, space: SearchSpace, device: Device, layers: Sequence[Sequence[Kernel]]
) -> Floats:
    """[L, S] conversion of what the network itself is given: charged to its first readers."""
    base = space.schemes[space.index(space.base)].activation
    fed = {edge.target for edge in graph.edges}
    result = np.zeros((len(graph.layers), len(space.schemes)))
    for i, kernels in enumerate(layers):
        if i not in fed:
            n = sum(kernel.input_elements for kernel in kernels)
            result[i] = [
                _conversion_us(device, base, base, scheme.activation, n) for scheme in space.schemes
            ]
    return result


def _conversions(
    graph: ModelGraph, space: SearchSpace, device: Device, layers: Sequence[Sequence[Kernel]]
) -> Iterator[tuple[int, int, Floats]]:
    """Yield (group, group, [S, S] microseconds) of each dataflow edge between two groups."""
    base = space.schemes[space.index(space.base)].activation
    group_of = group_of_layers(graph)
    sources = Counter(edge.target for edge in graph.edges)
    seen = set()
    for edge in graph.edges:
        writer, reader = group_of[edge.source], group_of[edge.target]
        gemm = graph.layers[edge.target].gemms[0]
        key = (edge.source, reader, gemm.left.value)
        if writer == reader or key in seen:
            continue
        seen.add(key)
        operands = 1 if gemm.has_weight else 2
        share = min(1.0, operands / sources[edge.target])
        own = max(1, graph.layers[edge.target].input_elements)
        n = edge.elements * sum(k.input_elements for k in layers[edge.target]) / own
        yield (
            writer,
            reader,
            np.array(
                [
                    [
                        share * _conversion_us(device, base, a.activation, b.activation, n)
                        for b in space.schemes
                    ]
                    for a in space.schemes
                ]
            ),
        )


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
