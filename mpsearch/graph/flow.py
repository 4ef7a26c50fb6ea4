"""Edges: how data flows from layer to layer through the operators between them."""

from collections.abc import Sequence

from mpsearch.graph.layers import elements
from mpsearch.graph.model import Edge, Layer, Node
from mpsearch.graph.operands import ShapeOf
from mpsearch.graph.traversal import all_nodes, bodies

NEAREST = (
    32  # producers of one tensor that are kept: the latest, where a residual stream adds up all
)
_CUTS = frozenset({"Shape", "Size", "NonZero"})  # their outputs hold no activations


def find_edges(
    nodes: Sequence[Node], layers: Sequence[Layer], shape_of: ShapeOf
) -> tuple[Edge, ...]:
    """Return an edge for each pair of layers that data flows between without crossing a third.

    Where additions gather many layers' outputs in one tensor, its ``NEAREST`` latest producers count.
    """
    index_of = {layer.name: index for index, layer in enumerate(layers)}
    producers: dict[str, tuple[int, ...]] = {}
    found: dict[tuple[int, int], int] = {}
    for node in all_nodes(nodes):
        sources = _joined([producers.get(name, ()) for name in node.inputs])
        index = index_of.get(node.name)
        if index is not None:
            for name in node.inputs:
                for source in producers.get(name, ()):
                    size = elements(shape_of(name))
                    if source != index:
                        found[source, index] = max(size, found.get((source, index), 0))
            sources = (index,)
        inner = [producers.get(o.name, ()) for body in bodies(node) for o in body.outputs]
        result = _joined([sources, *inner]) if node.op_type not in _CUTS else ()
        for name in node.outputs:
            if name and result:
                producers[name] = result
    return tuple(Edge(a, b, size) for (a, b), size in sorted(found.items()))


def _joined(parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return parts[0] if parts else ()
    return tuple(sorted(set().union(*parts))[-NEAREST:])
