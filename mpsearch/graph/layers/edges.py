"""How data flows from layer to layer through the operators between them."""

from collections.abc import Mapping, Sequence

from mpsearch.graph.layers.find_layers import elements
from mpsearch.graph.layers.operands import ShapeOf
from mpsearch.graph.layers.traversal import all_nodes, bodies
from mpsearch.graph.model import Edge, Layer, Node

NEAREST = (
    32  # producers of one tensor that are kept: the latest, where a residual stream adds up all
)
_CUTS = frozenset({"Shape", "Size", "NonZero"})  # their outputs hold no activations

Producers = Mapping[str, tuple[int, ...]]


def find_producers(nodes: Sequence[Node], layers: Sequence[Layer]) -> Producers:
    """Return for each value the layers whose outputs reach it without crossing another layer.

    Where additions gather many layers' outputs in one tensor, its ``NEAREST`` latest ones count.
    """
    index_of = {layer.name: index for index, layer in enumerate(layers)}
    producers: dict[str, tuple[int, ...]] = {}
    for node in all_nodes(nodes):
        index = index_of.get(node.name)
        if index is not None:
            result: tuple[int, ...] = (index,)
        elif node.op_type in _CUTS:
            continue
        else:
            inner = [producers.get(o.name, ()) for body in bodies(node) for o in body.outputs]
            result = _joined([*(producers.get(name, ()) for name in node.inputs), *inner])
        if result:
            producers.update((name, result) for name in node.outputs if name)
    return producers


def _joined(parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    distinct = list(dict.fromkeys(part for part in parts if part))
    if len(distinct) < 2:
        return distinct[0] if distinct else ()
    return tuple(sorted(set().union(*distinct))[-NEAREST:])


def find_edges(
    nodes: Sequence[Node], layers: Sequence[Layer], producers: Producers, shape_of: ShapeOf
) -> tuple[Edge, ...]:
    """Return an edge for each pair of layers that data flows between without crossing a third."""
    index_of = {layer.name: index for index, layer in enumerate(layers)}
    found: dict[tuple[int, int], int] = {}
    for node in all_nodes(nodes):
        index = index_of.get(node.name)
        if index is None:
            continue
        for name in node.inputs:
            sources = producers.get(name, ())
            size = elements(shape_of(name)) if sources else 0
            for source in sources:
                if source != index:
                    found[source, index] = max(size, found.get((source, index), 0))
    return tuple(Edge(a, b, size) for (a, b), size in sorted(found.items()))
