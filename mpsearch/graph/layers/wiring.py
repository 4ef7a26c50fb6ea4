"""Who produces and who reads each value, and short walks along them."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpsearch.graph.layers.edges import Producers
from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import Layer, Node

_LONGEST = 200  # nodes that one walk visits: patterns are local

# Operators that change no element but where it lies.
MOVES = frozenset(
    {
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
NONLINEAR = frozenset(
    {
        "Celu",
        "Elu",
        "Erf",
        "FastGelu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "QuickGelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Swish",
        "Tanh",
    }
)
ARITHMETIC = frozenset({"Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Pow", "Sub", "Where"})


@dataclass(frozen=True, slots=True)
class Wiring:
    """A graph as its values see it.

    Attributes:
        layers: The graph's layers.
        index_of: Layer by node name.
        made_by: Value to the node that produces it.
        read_by: Value to the nodes that read it.
        producers: Value to the nearest layers before it.
        constants: Names of constant values.
    """

    layers: Sequence[Layer]
    index_of: Mapping[str, int]
    made_by: Mapping[str, Node]
    read_by: Mapping[str, Sequence[Node]]
    producers: Producers
    constants: frozenset[str]

    def after(self, value: str, through: Callable[[Node], bool]) -> Iterator[Node]:
        """Yield the nodes that ``value`` reaches; a walk goes on behind those that ``through`` allows."""
        queue, seen = deque([value]), {value}
        visited = 0
        while queue and visited < _LONGEST:
            for node in self.read_by.get(queue.popleft(), ()):
                visited += 1
                yield node
                if through(node):
                    fresh = [name for name in node.outputs if name and name not in seen]
                    seen.update(fresh)
                    queue.extend(fresh)

    def before(self, value: str, through: Callable[[Node], bool]) -> Iterator[Node]:
        """Yield the nodes that ``value`` comes from; a walk goes on before those that ``through`` allows."""
        queue, seen = deque([value]), {value}
        visited = 0
        while queue and visited < _LONGEST:
            node = self.made_by.get(queue.popleft())
            if node is None:
                continue
            visited += 1
            yield node
            if through(node):
                fresh = [name for name in node.inputs if name and name not in seen]
                seen.update(fresh)
                queue.extend(fresh)

    def origin(self, value: str) -> str:
        """Return where ``value`` lay before reshapes and transposes."""
        node = self.made_by.get(value)
        while node is not None and node.op_type in MOVES and node.op_type != "Concat":
            value = node.inputs[0]
            node = self.made_by.get(value)
        return value

    def is_layer(self, node: Node) -> bool:
        """Return whether ``node`` is one of the layers."""
        return node.name in self.index_of


def find_wiring(
    nodes: Sequence[Node], layers: Sequence[Layer], producers: Producers, constants: frozenset[str]
) -> Wiring:
    """Return the surroundings of all values."""
    made_by: dict[str, Node] = {}
    read_by: dict[str, list[Node]] = {}
    for node in all_nodes(nodes):
        for name in node.outputs:
            made_by[name] = node
        for name in dict.fromkeys(node.inputs):
            read_by.setdefault(name, []).append(node)
    index_of = {layer.name: index for index, layer in enumerate(layers)}
    return Wiring(layers, index_of, made_by, read_by, producers, constants)
