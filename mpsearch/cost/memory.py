"""What a model holds in a device's memory: weights, activations, keys and values of earlier tokens."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf, prod

import numpy as np

from mpsearch.cost.kernels import Kernel, context_axis, lower
from mpsearch.cost.phases import Phase
from mpsearch.cost.products import element_bytes
from mpsearch.cost.values import VIEWS, Sizes, value_bytes
from mpsearch.graph.model import ModelGraph, Node, Subgraph
from mpsearch.problem.tables import Costs
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Floats

_COPIES = VIEWS | {"Transpose", "Expand", "Tile", "Cast"}
"""Operators behind which there is no element more that is worth keeping."""


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
        peak_activation_bytes(
            graph, element_bytes(base.activation), Sizes(batch, phase.tokens, phase.context)
        )
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


def _kept(graph: ModelGraph, index: int, kernels: tuple[Kernel, ...]) -> float:
    """Elements of the right operands of a layer that run over the context; heads that share keys keep them once."""
    return sum(
        kernel.gemm.calls * kernel.gemm.n * kernel.gemm.k * _distinct(graph, index, i)
        for i, kernel in enumerate(kernels)
        if context_axis(graph.layers[index], i)
    )


def _distinct(graph: ModelGraph, index: int, product: int) -> float:
    """Share of a right operand's elements that are not copies for further heads."""
    layer = graph.layers[index]
    gemm, made = layer.gemms[product], {n: node for node in graph.nodes for n in node.outputs}
    values = {**graph.values, **{value.name: value for value in graph.inputs}}

    def elements(name: str) -> float:
        shape = values[name].shape if name in values else None
        return inf if shape is None else prod(graph.batch if n is None else n for n in shape)

    if (
        layer.role == "attention.core"
    ):  # keys or values as they came, without those of earlier tokens
        known = values.get(gemm.right.value)
        length = known.shape[-2] if known is not None and known.shape else None
        width = gemm.calls * (gemm.n if product % 2 else gemm.k)
        return min(1.0, elements(gemm.right.value) / (length * width)) if length else 1.0
    name, least = gemm.right.value, float(gemm.calls * gemm.n * gemm.k)
    whole = least
    while True:
        least = min(least, elements(name))
        node = made.get(name)
        if node is None or not (node.op_type in _COPIES or _scales(graph, node)):
            return least / whole
        name = next(n for n in node.inputs if n not in graph.constants)


def _scales(graph: ModelGraph, node: Node) -> bool:
    """Whether a node multiplies one tensor by a constant."""
    others = [name for name in node.inputs if name not in graph.constants]
    return node.op_type in ("Mul", "Div") and len(others) == 1


def peak_activation_bytes(graph: ModelGraph, width: float, sizes: Sizes) -> float:
    """Return the most bytes of tensors that live at the same time, one operator after the other.

    Args:
        graph: The model.
        width: Bytes of an element that is a float.
        sizes: What is priced.
    """
    held_by = value_bytes(graph, width, sizes)
    root = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op_type in VIEWS}

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
    held = peak = sum(held_by.get(name, 0.0) for name in live)
    for step, node in enumerate(graph.nodes):
        for name in node.outputs:
            if name and owner(name) == name and name not in live:
                live.add(name)
                held += held_by.get(name, 0.0)
        peak = max(peak, held)
        for name in dying.get(step, ()):
            if name in live:
                live.remove(name)
                held -= held_by.get(name, 0.0)
    if graph.nodes:
        return peak
    layers = lower(graph, batch=sizes.batch, tokens=sizes.tokens, context=sizes.context)
    alone = [sum(k.input_elements + k.output_elements for k in kernels) for kernels in layers]
    return max(peak, max(alone, default=0) * width)


def _reads(node: Node) -> Iterator[str]:
    yield from node.inputs
    for value in node.attributes.values():
        if isinstance(value, Subgraph):
            for inner in value.nodes:
                yield from _reads(inner)
