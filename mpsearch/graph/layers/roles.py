"""What each layer is to the network, told by wiring and sizes; names play no part."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mpsearch.graph.layers.attention_roles import DENSE, attention_roles, feed_forward_roles
from mpsearch.graph.layers.traversal import all_nodes, bodies
from mpsearch.graph.layers.wiring import MOVES, NONLINEAR, Wiring
from mpsearch.graph.model import Edge, Layer, Node

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
_CLASSIFIES = frozenset({"ArgMax", "LogSoftmax", "Sigmoid", "Softmax", "TopK"})
_BENDS = NONLINEAR | {"Exp"}
_JOINS = frozenset({"Concat", "ScatterElements", "ScatterND", "Where"})


def assign_roles(
    wiring: Wiring,
    nodes: Sequence[Node],
    edges: Sequence[Edge],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> tuple[Layer, ...]:
    """Return the layers with their roles; the first rule that knows a layer decides.

    Roles: ``attention.q`` (``k``, ``v``, ``qkv`` where fused, ``out``, ``scores``, ``values``,
    ``core``), the same after ``cross-attention``, ``recurrent``, ``positional-encoding``,
    ``feed-forward.up`` (``gate``, ``down``), ``projection`` (between modalities), ``stem``,
    ``depthwise``, ``head.classification``, ``head.regression``, ``head``, ``pointwise``, "".
    """
    reached = _reached_inputs(nodes, inputs)
    rules = (
        _operators(wiring),
        attention_roles(wiring),
        _recurrent(wiring, nodes),
        _positional(wiring),
        _heads(wiring, edges, outputs, alone=True),
        feed_forward_roles(wiring),
        _projections(wiring, nodes, reached),
        _stems(wiring, edges, reached),
        _convolutions(wiring, "depthwise"),
        _heads(wiring, edges, outputs, alone=False),
        _convolutions(wiring, "pointwise"),
    )
    roles: dict[int, str] = {}
    for rule in rules:
        for index, role in rule:
            roles.setdefault(index, role)
    return tuple(
        replace(layer, role=roles.get(index, "")) for index, layer in enumerate(wiring.layers)
    )


def _reached_inputs(nodes: Sequence[Node], inputs: Sequence[str]) -> Mapping[str, int]:
    """Return for each value the inputs that it depends on, as bits."""
    reached = {name: 1 << bit for bit, name in enumerate(inputs)}
    for node in all_nodes(nodes):
        bits = 0
        for name in (*node.inputs, *(o.name for body in bodies(node) for o in body.outputs)):
            bits |= reached.get(name, 0)
        if bits and node.op_type != "Shape":
            reached.update((name, bits) for name in node.outputs if name)
    return reached


def _operators(wiring: Wiring) -> Iterator[tuple[int, str]]:
    """Layers whose operator says it all, whatever reads them."""
    for index, layer in enumerate(wiring.layers):
        if layer.op_type in _RECURRENT:
            yield index, "recurrent"


def _recurrent(wiring: Wiring, nodes: Sequence[Node]) -> Iterator[tuple[int, str]]:
    inside = {
        inner.name
        for node in all_nodes(nodes)
        if node.op_type in ("Loop", "Scan")
        for body in bodies(node)
        for inner in all_nodes(body.nodes)
    }
    weights: dict[tuple[str, ...], list[int]] = {}
    for index, layer in enumerate(wiring.layers):
        if layer.name in inside:
            yield index, "recurrent"
        elif layer.has_weight and layer.op_type not in _CONVOLUTIONS:
            key = tuple(gemm.right.source for gemm in layer.gemms)
            weights.setdefault(key, []).append(index)
    for indices in weights.values():
        if len(indices) > 2 and _is_chain(wiring, indices):
            yield from ((index, "recurrent") for index in indices)


def _is_chain(wiring: Wiring, indices: Sequence[int]) -> bool:
    """Return whether each use of one weight gets what an earlier one made: an unrolled loop.

    The input products of an unrolled loop read the sequence instead; they feed the same gates.
    """
    layers = wiring.layers
    first, second = layers[indices[0]], layers[indices[1]]
    if indices[0] in wiring.producers.get(second.gemms[0].left.value, ()):
        return True
    partners = [
        node
        for node in wiring.after(first.output, lambda node: not wiring.is_layer(node))
        if wiring.is_layer(node)
    ]
    return any(
        other.name != first.name
        and layers[wiring.index_of[other.name]].gemms[0].n == first.n
        and layers[wiring.index_of[other.name]].gemms[0].right.source != first.gemms[0].right.source
        for other in partners
    )


def _positional(wiring: Wiring) -> Iterator[tuple[int, str]]:
    """Products of positions with frequencies, which sine and cosine read."""
    for index, layer in enumerate(wiring.layers):
        if layer.k != 1:
            continue
        following = wiring.after(layer.output, lambda node: node.op_type in MOVES)
        if any(node.op_type in ("Sin", "Cos") for node in following):
            yield index, "positional-encoding"


def _projections(
    wiring: Wiring, nodes: Sequence[Node], reached: Mapping[str, int]
) -> Iterator[tuple[int, str]]:
    """The last layers before tensors that come from different inputs meet."""
    for node in all_nodes(nodes):
        index = wiring.index_of.get(node.name)
        compares = index is not None and not wiring.layers[index].has_weight
        if node.op_type not in _JOINS and not compares:
            continue
        sides = [name for name in node.inputs if wiring.producers.get(name) or reached.get(name)]
        bits = [reached.get(name, 0) for name in sides]
        if len(sides) < 2 or not all(bits) or bits[0] & bits[1]:
            continue
        for name in sides:
            last = wiring.producers.get(name, ())
            if len(last) == 1 and wiring.layers[last[0]].op_type not in _CONVOLUTIONS:
                yield last[0], "projection"


def _stems(
    wiring: Wiring, edges: Sequence[Edge], reached: Mapping[str, int]
) -> Iterator[tuple[int, str]]:
    """Weighted layers that read an input of the model, and that other layers follow."""
    followed = {edge.source for edge in edges}
    for index, layer in enumerate(wiring.layers):
        value = layer.gemms[0].left.value
        first = reached.get(value) and not wiring.producers.get(value)
        if not (first and layer.has_weight and index in followed):
            continue
        if not any(
            node.op_type == "Gather" and node.inputs[0] in wiring.constants
            for node in wiring.before(value, lambda node: not wiring.is_layer(node))
        ):
            yield index, "stem"


def _convolutions(wiring: Wiring, role: str) -> Iterator[tuple[int, str]]:
    for index, layer in enumerate(wiring.layers):
        gemm = layer.gemms[0]
        if layer.op_type not in _CONVOLUTIONS:
            continue
        if gemm.groups > 1 and gemm.k == gemm.positions:
            found = "depthwise"
        else:
            found = "pointwise" if gemm.positions == 1 else ""
        if found == role:
            yield index, role


def _heads(
    wiring: Wiring, edges: Sequence[Edge], outputs: Sequence[str], *, alone: bool
) -> Iterator[tuple[int, str]]:
    """Weighted layers that reach an output of the model and no other layer.

    What is bent, neither pooled nor made classes of, is a regression, and so is what stands beside a
    head of classes.

    Args:
        wiring: The graph.
        edges: Its edges.
        outputs: Its outputs.
        alone: Only dense layers that make an output on their own: what may look like the end of a
            feed-forward block, but joins no residual stream and is not normalised.
    """
    followed = {edge.source for edge in edges}
    last = {index for name in outputs for index in wiring.producers.get(name, ())}
    sole = {wiring.producers.get(name, ()) for name in outputs}
    found: dict[int, str] = {}
    for index in sorted(last - followed):
        layer = wiring.layers[index]
        if not layer.has_weight or (alone and (layer.op_type not in DENSE or (index,) not in sole)):
            continue
        following = list(wiring.after(layer.output, lambda node: not wiring.is_layer(node)))
        summed = any(_sums_up(node) for node in following)
        if any(_classifies(wiring, node) for node in following):
            found[index] = "head.classification"
        elif alone and summed:
            continue
        elif layer.n == 1 or any(node.op_type in _BENDS and not summed for node in following):
            found[index] = "head.regression"
        else:
            found[index] = "head"
    beside = "head.regression" if "head.classification" in found.values() else "head"
    yield from ((index, beside if role == "head" else role) for index, role in found.items())


def _sums_up(node: Node) -> bool:
    """Return whether ``node`` normalises or pools: embeddings end so, and classes scored place by place."""
    return node.op_type.endswith(("Normalization", "Pool")) or node.op_type.startswith("Reduce")


def _classifies(wiring: Wiring, node: Node) -> bool:
    """Return whether ``node`` makes classes of numbers, be it as the exponentials of a Softmax written out."""
    if node.op_type != "Exp":
        return node.op_type in _CLASSIFIES
    readers = {reader.op_type for reader in wiring.read_by.get(node.outputs[0], ())}
    return {"ReduceSum", "Div"} <= readers
