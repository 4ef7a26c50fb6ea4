"""Groups: layers that must share one scheme."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mpsearch.graph.layers.operands import ShapeOf, size
from mpsearch.graph.layers.traversal import all_nodes, bodies
from mpsearch.graph.model import Edge, Group, Layer, Node

_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_FUSED = frozenset({"Einsum", "Gemm", "MatMul", "FusedGemm", "FusedMatMul"})
_PAIRED = frozenset({"feed-forward.gate", "feed-forward.up"})
SHARED, ONE_INPUT = "shared weight", "one input"
_REASONS = MappingProxyType({SHARED: 0, ONE_INPUT: 1})


def find_groups(
    nodes: Sequence[Node], layers: Sequence[Layer], edges: Sequence[Edge], shape_of: ShapeOf
) -> tuple[Group, ...]:
    """Return the partition of ``layers``, in schedule order of their first members.

    Layers that read one weight tensor of the file belong together, and so do products with weights
    that runtimes fuse: they read the same activation along its last axis of equal size, and either feed
    the same products of activations (q/k/v of one attention) or widen for a feed-forward block (gate/up
    of one expert or of all). Whatever else reads one tensor stays apart: heads, what chooses among
    experts, keys and values of other blocks, convolutions, the branches of an If.
    """
    made_by = {name: node for node in all_nodes(nodes) for name in node.outputs}
    homes = dict(_homes(nodes, 0))
    fed = _fed_cores(layers, edges)
    keys = [
        [
            *_shared(layer),
            *_fused(layer, homes[layer.name], fed.get(index), made_by, shape_of),
        ]
        for index, layer in enumerate(layers)
    ]
    return join_layers(layers, keys)


Keys = Sequence[tuple[tuple[object, ...], str]]
"""What joins a layer with every other that has the same, and the word for it."""


def join_layers(layers: Sequence[Layer], keys: Sequence[Keys]) -> tuple[Group, ...]:
    """Return the partition of ``layers`` in which those with a key in common are together.

    Args:
        layers: [L]
        keys: [L] keys of each, with reasons.
    """
    parent = list(range(len(layers)))  # not networkx's UnionFind: 0.2 s to import it for each model
    reasons: dict[int, set[str]] = {}
    seen: dict[tuple[object, ...], int] = {}
    for index in range(len(layers)):
        for key, reason in keys[index]:
            other = seen.setdefault(key, index)
            a, b = sorted((_root(parent, other), _root(parent, index)))
            if a != b:
                parent[b] = a
                reasons[a] = reasons.get(a, set()) | reasons.pop(b, set()) | {reason}
    members: dict[int, list[int]] = {}
    for index in range(len(layers)):
        members.setdefault(_root(parent, index), []).append(index)
    return tuple(
        Group(
            name=layers[first].name,
            layers=tuple(indices),
            reason=", ".join(
                sorted(reasons.get(first, {"single"}), key=lambda r: _REASONS.get(r, 2))
            ),
        )
        for first, indices in sorted(members.items())
    )


def untie_layers(
    layers: Sequence[Layer], groups: Sequence[Group], free: set[int]
) -> tuple[Group, ...]:
    """Return ``groups`` without the layers ``free``, each of which is a group of its own.

    Layers that read one weight tensor stay together: it is stored once. A group keeps its reason.
    """
    group_of = {index: group for group in groups for index in group.layers}
    keys = [
        [*_shared(layer), *(() if index in free else [(("kept", group_of[index].name), ONE_INPUT)])]
        for index, layer in enumerate(layers)
    ]
    kept = {group.layers: group for group in groups}
    return tuple(kept.get(group.layers, group) for group in join_layers(layers, keys))


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def _fed_cores(layers: Sequence[Layer], edges: Sequence[Edge]) -> dict[int, int]:
    """Return for each weighted layer the set of products of activations that it feeds first, by its first member.

    Such products belong together where one feeds the other, as scores and values of one attention do.
    """
    parent = list(range(len(layers)))
    for edge in edges:
        if not (layers[edge.source].has_weight or layers[edge.target].has_weight):
            a, b = sorted((_root(parent, edge.source), _root(parent, edge.target)))
            parent[b] = a
    fed: dict[int, int] = {}
    for edge in edges:
        if layers[edge.source].has_weight and not layers[edge.target].has_weight:
            core = _root(parent, edge.target)
            fed[edge.source] = min(core, fed.get(edge.source, core))
    return fed


def _homes(nodes: Iterable[Node], home: int) -> Iterator[tuple[str, int]]:
    """Yield each node's name with a number of the graph that it stands in."""
    for node in nodes:
        yield node.name, home
        for body in bodies(node):
            yield from _homes(body.nodes, id(body))


def _shared(layer: Layer) -> Keys:
    return [(("weight", gemm.right.source), SHARED) for gemm in layer.gemms if gemm.has_weight]


def _fused(
    layer: Layer, home: int, core: int | None, made_by: Mapping[str, Node], shape_of: ShapeOf
) -> Keys:
    """Return what would fuse ``layer`` with another that has the same.

    Args:
        layer: The layer.
        home: Number of the graph that it stands in.
        core: Number of the products of activations that it feeds, None where it feeds none.
        made_by: Value to the node that produces it.
        shape_of: Shapes of values.
    """
    gemm = layer.gemms[0]
    block = "feed-forward" if layer.role in _PAIRED else core
    if layer.op_type not in _FUSED or len(layer.gemms) != 1 or block is None:
        return []
    if not gemm.has_weight or not gemm.k or gemm.positions != 1:
        return []
    value = _unreshaped(gemm.left.value, gemm.k, made_by, shape_of)
    rank = len(shape_of(gemm.left.value) or ())
    axis = gemm.left.reduction_axis
    along_last = axis == -1 or (axis == rank - 1 if rank else axis == 1)
    return [(("input", value, gemm.k, along_last, block, home), ONE_INPUT)]


def _unreshaped(value: str, k: int, made_by: Mapping[str, Node], shape_of: ShapeOf) -> str:
    """Return ``value`` before reshapes that keep its last axis: some exporters write one a layer."""
    node = made_by.get(value)
    while node is not None and node.op_type in _RESHAPES:
        before = node.inputs[0]
        if size(shape_of(before), -1) != k or size(shape_of(value), -1) != k:
            break
        value, node = before, made_by.get(before)
    return value
