"""Operators that are no layers: kernels that move bytes, whatever is decided."""

from collections.abc import Mapping
from dataclasses import dataclass

from mpsearch.cost.values import VIEWS
from mpsearch.graph.model import ModelGraph, Node
from mpsearch.space.rules import Fusing


@dataclass(frozen=True, slots=True)
class OtherKernel:
    """One kernel of operators that are no layers, or what a layer's epilogue reads besides.

    Attributes:
        nodes: Names of its operators, in order.
        layer: The layer whose kernel takes them in; "" where they are a kernel of their own.
        reads: Values that it reads, besides what the layer's kernel wrote.
        writes: Values that it writes; none of an epilogue, which writes what the kernel would have.
    """

    nodes: tuple[str, ...]
    layer: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def bytes(self, sizes: Mapping[str, float]) -> float:
        """Return the bytes that it moves, given those of each value."""
        return sum(sizes.get(name, 0.0) for name in (*self.reads, *self.writes))


def other_kernels(graph: ModelGraph, fusing: Fusing) -> tuple[OtherKernel, ...]:
    """Return the kernels that a runtime runs for the operators that are no layers.

    An operator of ``fusing.epilogues`` runs within the kernel before it where nothing else reads that kernel's result.
    The others are kernels of their own; neighbours between the same layers are one, if ``fusing.elementwise``.
    Views and what computes with shapes take nothing.
    """
    kinds = _Operators.of(graph)
    epilogue: dict[str, str] = {}  # value → layer whose kernel writes it
    depth: dict[str, int] = {}  # value → layers before it
    kernel_of: dict[str, int] = {}  # value → kernel that writes it
    parents: list[int] = []  # kernel → the one that it was joined to, or itself
    members: list[tuple[Node, int]] = []
    attached: list[OtherKernel] = []
    for node in graph.nodes:
        before = max((depth.get(name, 0) for name in node.inputs), default=0)
        depth |= dict.fromkeys(node.outputs, before + (node.name in kinds.layers))
        if node.name in kinds.layers:
            epilogue |= dict.fromkeys(node.outputs, node.name)
        elif node.op_type in VIEWS:
            seen, given = node.inputs[0], node.outputs[0]
            if seen in epilogue and kinds.readers[seen] == 1:
                epilogue[given] = epilogue[seen]
            elif seen in kernel_of and kinds.readers[seen] == 1:
                kernel_of[given] = kernel_of[seen]
        elif kinds.moves(node):
            host = next((n for n in node.inputs if n in epilogue and kinds.readers[n] == 1), None)
            if host is not None and node.op_type in fusing.epilogues:
                epilogue |= dict.fromkeys(node.outputs, epilogue[host])
                others = tuple(n for n in node.inputs if n != host and kinds.is_tensor(n))
                if others:
                    attached.append(OtherKernel((node.name,), epilogue[host], others, ()))
                continue
            joined = {
                _root(parents, kernel_of[name])
                for name in node.inputs
                if fusing.elementwise and name in kernel_of and depth[name] == before
            }
            index = min(joined, default=len(parents))
            if index == len(parents):
                parents.append(index)
            for other in joined:
                parents[other] = index
            members.append((node, index))
            kernel_of |= dict.fromkeys(node.outputs, index)
    kernels: dict[int, list[Node]] = {}
    for node, index in members:
        kernels.setdefault(_root(parents, index), []).append(node)
    return (*attached, *(_alone(nodes, kinds) for nodes in kernels.values()))


def _root(parents: list[int], index: int) -> int:
    """The kernel that ``index`` was joined to."""
    while parents[index] != index:
        index = parents[index]
    return index


@dataclass(frozen=True, slots=True)
class _Operators:
    """What is known of a graph's values and nodes."""

    graph: ModelGraph
    layers: frozenset[str]
    readers: Mapping[str, int]

    @classmethod
    def of(cls, graph: ModelGraph) -> "_Operators":
        readers: dict[str, int] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name] = readers.get(name, 0) + 1
        for value in graph.outputs:
            readers[value.name] = readers.get(value.name, 0) + 1
        return cls(graph, frozenset(layer.name for layer in graph.layers), readers)

    def is_tensor(self, name: str) -> bool:
        """Whether a value is floats that were computed."""
        value = self.graph.values.get(name) or next(
            (v for v in self.graph.inputs if v.name == name), None
        )
        if not name or name in self.graph.constants or value is None:
            return False
        return value.dtype is None or value.dtype.startswith(("float", "bfloat"))

    def moves(self, node: Node) -> bool:
        """Whether a node writes tensors."""
        return any(self.is_tensor(name) for name in node.outputs)


def _alone(nodes: list[Node], kinds: _Operators) -> OtherKernel:
    """A kernel of its own: it reads what others wrote, and writes what others read."""
    written = [name for node in nodes for name in node.outputs if kinds.is_tensor(name)]
    inside: dict[str, int] = {}
    for node in nodes:
        for name in dict.fromkeys(node.inputs):
            inside[name] = inside.get(name, 0) + 1
    reads = [name for name in inside if name not in written and kinds.is_tensor(name)]
    writes = [name for name in written if kinds.readers.get(name, 0) > inside.get(name, 0)]
    return OtherKernel(tuple(node.name for node in nodes), "", tuple(reads), tuple(writes))
