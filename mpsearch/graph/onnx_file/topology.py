"""Order of ONNX nodes, and the names that a subgraph reads from outside."""

from collections.abc import Iterator, Sequence

import onnx

from mpsearch.errors import ModelError


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield attribute name and body of every graph that ``node`` holds."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for index, graph in enumerate(attribute.graphs):
                yield f"{attribute.name}[{index}]", graph


def reads(node: onnx.NodeProto) -> set[str]:
    """Return every value that ``node`` needs, those its subgraphs read from outside included."""
    names = {name for name in node.input if name}
    for _, graph in subgraphs(node):
        names |= outer_reads(graph)
    return names


def outer_reads(graph: onnx.GraphProto) -> set[str]:
    """Return the values that ``graph`` reads from the graphs around it."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    needed = {value.name for value in graph.output}
    for node in graph.node:
        own.update(node.output)
        needed |= reads(node)
    return needed - own


def in_order(
    nodes: Sequence[onnx.NodeProto], available: set[str], where: str
) -> list[onnx.NodeProto]:
    """Return ``nodes`` so that each stands after those it reads, otherwise as in the file.

    Raises:
        ModelError: A value has two producers or none, or nodes form a cycle.
    """
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in producer:
                raise ModelError(f"{where}: value {name!r} must have one producer, it has two")
            if name:
                producer[name] = index
    edges: list[tuple[int, int]] = []
    for index, node in enumerate(nodes):
        for name in reads(node):
            source = producer.get(name)
            if source is not None:
                edges.append((source, index))
            elif name not in available:
                raise ModelError(
                    f"{where}: node {label(node)!r} reads {name!r}, which nothing produces"
                )
    if all(source < reader for source, reader in edges):  # as the standard asks
        return list(nodes)
    return [nodes[index] for index in _sorted(nodes, edges, where)]


def _sorted(
    nodes: Sequence[onnx.NodeProto], edges: Sequence[tuple[int, int]], where: str
) -> list[int]:
    import networkx

    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    graph.add_edges_from(edges)
    try:
        return list(networkx.lexicographical_topological_sort(graph))
    except networkx.NetworkXUnfeasible as error:
        stuck = min(source for source, *_ in networkx.find_cycle(graph))
        raise ModelError(f"{where}: nodes form a cycle through {label(nodes[stuck])!r}") from error


def label(node: onnx.NodeProto) -> str:
    """Return what to call ``node`` in messages."""
    return node.name or next((name for name in node.output if name), node.op_type)
