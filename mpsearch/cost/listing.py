"""What runs of a plan, one by one: layers' kernels, what lies between them, and the operators that are no layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.cost.arrays import work
from mpsearch.cost.device import Device
from mpsearch.cost.executed.network import read_network
from mpsearch.cost.executed.steps import executed_kernels, find_steps
from mpsearch.cost.kernels import collect_kernels, computed_in, layer_latencies, lower
from mpsearch.cost.lowering import find_conversions
from mpsearch.cost.npu import switches
from mpsearch.cost.phases import Phase
from mpsearch.cost.roofline import others_us
from mpsearch.cost.values import Sizes
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.space.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Executed:
    """One thing that runs.

    Attributes:
        phase: Phase of tokens; "" where there is only one.
        kind: ``kernel`` of a layer, ``operators`` that are no layers, or between kernels ``conversion``, ``switch``,
            ``rounding``, ``way back`` and ``layout``.
        name: The layer, the operators, the tensor, or ``writer -> reader``.
        runs_in: Of a layer, the scheme that its kernel computes in; else "".
        us: What it takes; less than 0 where it falls away of what the model runs in fp32.
    """

    phase: str
    kind: str
    name: str
    runs_in: str
    us: float


def list_executed(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device,
    chosen: Sequence[int],
    phases: tuple[Phase, ...],
    *,
    batch: int = 1,
) -> tuple[Executed, ...]:
    """Return what runs with the schemes ``chosen`` [G], phase by phase; it adds up to the plan's latency.

    Raises:
        DeviceError: Another model prices the device, or it has not measured the model.
    """
    ways = {"roofline": _on_roofline, "npu": _on_arrays, "measured": _as_measured}
    if device.model not in ways:
        raise DeviceError(
            f"what runs is listed by the models {', '.join(ways)}; {device.name} is priced by {device.model}"
        )
    return tuple(
        Executed(phase.name, *row)
        for phase in phases
        for row in ways[device.model](
            graph, space, device, chosen, Sizes(batch, phase.tokens, phase.context)
        )
    )


Row = tuple[str, str, str, float]


def _on_roofline(
    graph: ModelGraph, space: SearchSpace, device: Device, chosen: Sequence[int], sizes: Sizes
) -> Iterator[Row]:
    layers = lower(graph, batch=sizes.batch, tokens=sizes.tokens, context=sizes.context)
    mask = np.zeros((len(graph.groups), len(space.schemes)), np.bool_)
    mask[np.arange(len(chosen)), list(chosen)] = True
    took, _ = layer_latencies(device, space, layers, mask)
    for i, s in enumerate(_by_layer(graph, chosen)):
        scheme = space.schemes[s]
        runs = computed_in(space, device, scheme) or scheme
        yield "kernel", graph.layers[i].name, runs.name, float(took[i, s])
    found, names = find_conversions(graph, space, device, layers), _names(graph)
    for g, s in enumerate(chosen):
        if found.reads[g, s]:
            yield "conversion", f"-> {names[g]}", "", float(found.reads[g, s])
    for a, b, term in found.pairs:
        if us := term[chosen[a], chosen[b]]:
            yield "conversion", f"{names[a]} -> {names[b]}", "", float(us)
    for kernel, us in others_us(graph, space, device, sizes):
        yield "operators", ", ".join(kernel.nodes), kernel.layer and f"in {kernel.layer}", us


def _on_arrays(
    graph: ModelGraph, space: SearchSpace, device: Device, chosen: Sequence[int], sizes: Sizes
) -> Iterator[Row]:
    if device.npu is None:
        raise DeviceError(f"{device.name}: model npu needs an [npu] table")
    layers = lower(graph, batch=sizes.batch, tokens=sizes.tokens, context=sizes.context)
    out = space.schemes[space.index(space.base)].activation
    for i, s in enumerate(_by_layer(graph, chosen)):
        products, _ = collect_kernels([layers[i]])
        done = work(device, space.schemes[s], products, out=out)
        yield "kernel", graph.layers[i].name, space.names[s], float(done.latency_us.sum())
    names = _names(graph)
    for a, b, term in switches(graph, space, device.npu):
        if us := term[chosen[a], chosen[b]]:
            yield "switch", f"{names[a]} -> {names[b]}", "", float(us)


def _as_measured(
    graph: ModelGraph, space: SearchSpace, device: Device, chosen: Sequence[int], sizes: Sizes
) -> Iterator[Row]:
    network = read_network(graph, device)
    schemes = [space.schemes[s] for s in _by_layer(graph, chosen)]
    executed = executed_kernels(network, schemes)
    for i, how in enumerate(executed):
        kernel = network.integers[i] if how.is_integer else None
        kernel, runs = (kernel, "int8") if kernel is not None else (network.floats[i], "fp32")
        if kernel is not None:
            yield "kernel", graph.layers[i].name, runs, kernel.us
    for step in find_steps(network, schemes):
        if step.kind != "kernel" and step.us:
            yield step.kind, step.name, "", step.us
    yield "operators", "all that are no layers", "", network.rest_us


def _by_layer(graph: ModelGraph, chosen: Sequence[int]) -> list[int]:
    """[L] schemes."""
    result = [0] * len(graph.layers)
    for group, s in zip(graph.groups, chosen, strict=True):
        for i in group.layers:
            result[i] = int(s)
    return result


def _names(graph: ModelGraph) -> list[str]:
    return [group.name for group in graph.groups]
