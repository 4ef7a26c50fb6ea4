"""What a model holds in a device's memory: weights, activations, keys and values of earlier tokens."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mpsearch.cost.kernels import Kernel, context_axis, lower, tokens_of
from mpsearch.cost.phases import Phase
from mpsearch.cost.products import element_bytes
from mpsearch.graph.model import ModelGraph, Node, Subgraph, Value
from mpsearch.problem.tables import Costs
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Floats

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


def add_memory(
    costs: Costs, graph: ModelGraph, space: SearchSpace, phases: tuple[Phase, ...], *, batch: int
) -> Costs:
    """Return ``costs`` with the objective ``memory_bytes``: what must lie in the device's memory at once.

    Decided weights take what their scheme stores; other parameters and the activations that live at the same time,
    at the phase where most do, take the base format. Keys and values of cached tokens take the format that
    the product which reads them runs in.
    """
    base = space.schemes[space.index(space.base)]
    cached = np.max([_cached_bytes(graph, space, phase, batch) for phase in phases], axis=0)
    others = graph.coverage.total_parameters - graph.coverage.parameters
    activations = max(
        peak_activation_bytes(graph, element_bytes(base.activation), phase, batch=batch)
        for phase in phases
    )
    table = costs.objectives["weight_bytes"] + cached * costs.allowed
    return replace(
        costs,
        objectives={**costs.objectives, "memory_bytes": table},
        stderr={**costs.stderr, "memory_bytes": np.zeros_like(table)},
        constants={
            **costs.constants,
            "memory_bytes": activations + max(0, others) * element_bytes(base.weight),
        },
    )


def _cached_bytes(graph: ModelGraph, space: SearchSpace, phase: Phase, batch: int) -> Floats:
    """[G, S] bytes of the keys and values that attention keeps; zeros without cached tokens."""
    result = np.zeros((len(graph.groups), len(space.schemes)))
    if not phase.cached:
        return result
    layers = lower(graph, batch=batch, tokens=phase.tokens, context=phase.context)
    widths = np.array([element_bytes(scheme.activation) for scheme in space.schemes])
    for g, group in enumerate(graph.groups):
        elements = sum(_kept(graph, i, layers[i]) for i in group.layers)
        result[g] = elements * widths
    return result


def _kept(graph: ModelGraph, index: int, kernels: tuple[Kernel, ...]) -> int:
    """Elements of the right operands of a layer that run over the context."""
    return sum(
        kernel.gemm.calls * kernel.gemm.n * kernel.gemm.k
        for i, kernel in enumerate(kernels)
        if context_axis(graph.layers[index], i)
    )


def peak_activation_bytes(graph: ModelGraph, width: float, phase: Phase, *, batch: int) -> float:
    """Return the most bytes of tensors that live at the same time, one operator after the other.

    Args:
        graph: The model.
        width: Bytes of an element that is a float.
        phase: Tokens that are priced.
        batch: Samples that run together.
    """
    sizes = {
        name: _bytes(graph, value, width, phase, batch) for name, value in graph.values.items()
    }
    sizes |= {v.name: _bytes(graph, v, width, phase, batch) for v in graph.inputs}
    root = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op_type in _VIEWS}

    def owner(name: str) -> str:
        while name in root:
            name = root[name]
        return name

    last: dict[str, int] = {}
    for step, node in enumerate(graph.nodes):
        last |= {owner(name): step for name in _reads(node)}
    last |= {owner(value.name): len(graph.nodes) for value in graph.outputs}
    dying: dict[int, list[str]] = {}
    for name, step in last.items():
        dying.setdefault(step, []).append(name)
    live = {value.name for value in graph.inputs}
    held = peak = sum(sizes.get(name, 0.0) for name in live)
    for step, node in enumerate(graph.nodes):
        for name in node.outputs:
            if name and owner(name) == name and name not in live:
                live.add(name)
                held += sizes.get(name, 0.0)
        peak = max(peak, held)
        for name in dying.get(step, ()):
            if name in live:
                live.remove(name)
                held -= sizes.get(name, 0.0)
    layers = lower(graph, batch=batch, tokens=phase.tokens, context=phase.context)
    alone = [sum(k.input_elements + k.output_elements for k in kernels) for kernels in layers]
    return max(peak, max(alone, default=0) * width)


def _reads(node: Node) -> Iterator[str]:
    yield from node.inputs
    for value in node.attributes.values():
        if isinstance(value, Subgraph):
            for inner in value.nodes:
                yield from _reads(inner)


def _bytes(graph: ModelGraph, value: Value, width: float, phase: Phase, batch: int) -> float:
    """Bytes of a tensor at the priced batch and tokens; 0 where its shape is not known."""
    if value.shape is None or value.name in graph.constants:
        return 0.0
    shape = [size or batch for size in value.shape]  # the batch alone is free
    elements = float(np.prod(shape)) * (1 if None in value.shape else batch / graph.batch)
    elements *= _token_factor(graph, value.shape, phase)
    if value.dtype is None or value.dtype.startswith(("float", "bfloat")):
        return elements * width
    return elements * (1 if value.dtype == "string" else np.dtype(value.dtype).itemsize)


def _token_factor(graph: ModelGraph, shape: tuple[int | None, ...], phase: Phase) -> float:
    """What the tokens change of a tensor: its first axis as long as they were, and its second, the context."""
    if phase.tokens is None:
        return 1.0
    own = tokens_of(graph)
    axes = [size for size in shape if size == own]
    lengths = [phase.tokens, phase.context or own]
    return float(np.prod([new / own for new, _ in zip(lengths, axes, strict=False)]))
