"""Groups: layers that must share one scheme."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mpsearch.graph.layers.operands import ShapeOf, size
from mpsearch.graph.layers.traversal import all_nodes, bodies
from mpsearch.graph.model import Group, Layer, Node

_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_FUSED = frozenset({"Einsum", "Gemm", "MatMul", "FusedGemm", "FusedMatMul"})
_FAMILIES = ("attention", "cross-attention", "feed-forward")
SHARED, ONE_INPUT = "shared weight", "one input"
_REASONS = MappingProxyType({SHARED: 0, ONE_INPUT: 1})


def find_groups(
    nodes: Sequence[Node], layers: Sequence[Layer], shape_of: ShapeOf
) -> tuple[Group, ...]:
    """Return the partition of ``layers``, in schedule order of their first members.

    Layers that read one weight tensor of the file belong together, and so do products with weights
    that read the same activation along its last axis of equal size and play parts of one block
    (q/k/v, gate/up of one expert or of all): runtimes fuse them. What chooses among experts stays
    apart, and so do the branches of an If. Convolutions are never joined by what they read.
    """
    made_by = {name: node for node in all_nodes(nodes) for name in node.outputs}
    homes = dict(_homes(nodes, 0))
    parent = list(range(len(layers)))  # not networkx's UnionFind: 0.2 s to import it for each model
    reasons: dict[int, set[str]] = {}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    seen: dict[tuple[object, ...], int] = {}
    for index, layer in enumerate(layers):
        for key, reason in _keys(layer, homes[layer.name], made_by, shape_of):
            other = seen.setdefault(key, index)
            a, b = sorted((root(other), root(index)))
            if a != b:
                parent[b] = a
                reasons[a] = reasons.get(a, set()) | reasons.pop(b, set()) | {reason}
    members: dict[int, list[int]] = {}
    for index in range(len(layers)):
        members.setdefault(root(index), []).append(index)
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


def _homes(nodes: Iterable[Node], home: int) -> Iterator[tuple[str, int]]:
    """Yield each node's name with a number of the graph that it stands in."""
    for node in nodes:
        yield node.name, home
        for body in bodies(node):
            yield from _homes(body.nodes, id(body))


def _family(role: str) -> str:
    """Return the block that a role belongs to; roles outside of blocks share one."""
    block = role.partition(".")[0]
    return block if block in _FAMILIES else ""


def _keys(
    layer: Layer, home: int, made_by: Mapping[str, Node], shape_of: ShapeOf
) -> list[tuple[tuple[object, ...], str]]:
    """Return what would join ``layer`` with another that has the same."""
    keys: list[tuple[tuple[object, ...], str]] = [
        (("weight", gemm.right.source), SHARED) for gemm in layer.gemms if gemm.has_weight
    ]
    gemm = layer.gemms[0]
    if layer.op_type in _FUSED and gemm.has_weight and len(layer.gemms) == 1 and gemm.k:
        value = _unreshaped(gemm.left.value, gemm.k, made_by, shape_of)
        rank = len(shape_of(gemm.left.value) or ())
        axis = gemm.left.reduction_axis
        along_last = axis == -1 or (axis == rank - 1 if rank else axis == 1)
        if gemm.positions == 1:
            key = ("input", value, gemm.k, along_last, _family(layer.role), home)
            keys.append((key, ONE_INPUT))
    return keys


def _unreshaped(value: str, k: int, made_by: Mapping[str, Node], shape_of: ShapeOf) -> str:
    """Return ``value`` before reshapes that keep its last axis: some exporters write one a layer."""
    node = made_by.get(value)
    while node is not None and node.op_type in _RESHAPES:
        before = node.inputs[0]
        if size(shape_of(before), -1) != k or size(shape_of(value), -1) != k:
            break
        value, node = before, made_by.get(before)
    return value
