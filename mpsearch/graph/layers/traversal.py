"""Walks over nodes, subgraphs included."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mpsearch.graph.model import Node, Subgraph
from mpsearch.graph.onnx_file.constants import Constant


def bodies(node: Node) -> Iterator[Subgraph]:
    """Yield the subgraphs that ``node`` holds."""
    for value in node.attributes.values():
        if isinstance(value, Subgraph):
            yield value


def all_nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield every node, those of a subgraph before the node that holds it."""
    for node in nodes:
        for body in bodies(node):
            yield from all_nodes(body.nodes)
        yield node


def reads(node: Node) -> set[str]:
    """Return the values that ``node`` needs, those that its subgraphs read from outside included."""
    names = {name for name in node.inputs if name}
    for body in bodies(node):
        inside = {value.name for value in body.inputs}
        needed = {value.name for value in body.outputs}
        for inner in body.nodes:
            needed |= reads(inner)
            inside.update(inner.outputs)
        names |= needed - inside
    return names


def live(nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
    """Return the nodes that ``outputs`` depend on, in the same order."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.isdisjoint(node.outputs):
            continue
        kept.append(_live_inside(node))
        needed |= reads(kept[-1])
    return kept[::-1]


def _live_inside(node: Node) -> Node:
    changed: dict[str, object] = {}
    for name, value in node.attributes.items():
        if isinstance(value, Subgraph):
            nodes = live(value.nodes, (output.name for output in value.outputs))
            changed[name] = Subgraph(tuple(nodes), value.inputs, value.outputs, value.constants)
    if not changed:
        return node
    return Node(
        node.name,
        node.op_type,
        node.domain,
        node.version,
        node.inputs,
        node.outputs,
        {**node.attributes, **changed},
    )


def used_constants(
    nodes: Iterable[Node], outputs: Iterable[str], constants: Mapping[str, Constant]
) -> dict[str, Constant]:
    """Return the constants that ``nodes`` or ``outputs`` read, in order of use."""
    used: dict[str, Constant] = {}
    for node in all_nodes(nodes):
        for name in node.inputs:
            if name in constants:
                used[name] = constants[name]
        for body in bodies(node):
            used.update({o.name: constants[o.name] for o in body.outputs if o.name in constants})
    used.update({name: constants[name] for name in outputs if name in constants})
    return used
