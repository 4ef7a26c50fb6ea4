"""Attention and feed-forward parts, recognised by how they are wired."""

from collections.abc import Iterator

from mpsearch.graph.layers.wiring import ARITHMETIC, MOVES, NONLINEAR, Wiring
from mpsearch.graph.model import Layer, Node

DENSE = frozenset({"Gemm", "MatMul", "Einsum", "FusedGemm", "FusedMatMul"})


def attention_roles(wiring: Wiring) -> Iterator[tuple[int, str]]:
    """Yield layer and role for every softmax(Q Kᵀ) V, written out or as one operator.

    Where query and key come from different tensors it is cross-attention.
    """
    for index, layer in enumerate(wiring.layers):
        if layer.op_type == "Attention" and layer.has_weight:
            yield index, "attention.qkv"
        elif layer.op_type == "Attention":
            operands = layer.gemms
            q, k = operands[0].left.value, operands[0].right.value
            v = operands[1].right.value
            kind = _kind(wiring, q, k)
            yield index, f"{kind}.core"
            yield from _around_core(wiring, kind, q, k, v, index)
        elif not layer.has_weight:
            values = _weighted(wiring, layer)
            if values is None:
                continue
            target, v = values
            gemm = layer.gemms[0]
            kind = _kind(wiring, gemm.left.value, gemm.right.value)
            yield index, f"{kind}.scores"
            yield target, f"{kind}.values"
            yield from _around_core(wiring, kind, gemm.left.value, gemm.right.value, v, target)


def _weighted(wiring: Wiring, scores: Layer) -> tuple[int, str] | None:
    """Return the product that takes the softmax of ``scores``, and its other operand."""

    def softly(node: Node) -> bool:
        return node.op_type in ARITHMETIC or node.op_type in MOVES

    for node in wiring.after(scores.output, softly):
        if node.op_type != "Softmax":
            continue
        for reader in wiring.after(node.outputs[0], softly):
            index = wiring.index_of.get(reader.name)
            if index is None or wiring.layers[index].has_weight:
                continue
            gemm = wiring.layers[index].gemms[0]
            source = wiring.index_of[scores.name]
            others = [
                operand.value
                for operand in (gemm.left, gemm.right)
                if source not in wiring.producers.get(operand.value, ())
            ]
            return (index, others[0]) if len(others) == 1 else None
    return None


def _kind(wiring: Wiring, q: str, k: str) -> str:
    """Return whether query and key are projections of one tensor."""
    query, key = _projection(wiring, q), _projection(wiring, k)
    if query is None or key is None:
        return "attention"
    sources = [wiring.origin(wiring.layers[i].gemms[0].left.value) for i in (query, key)]
    return "attention" if sources[0] == sources[1] else "cross-attention"


def _projection(wiring: Wiring, value: str) -> int | None:
    """Return the one weighted layer that ``value`` comes from, rotations of positions apart."""
    found = [
        index
        for index in wiring.producers.get(value, ())
        if wiring.layers[index].has_weight and wiring.layers[index].k > 1
    ]
    return found[0] if len(found) == 1 else None


def _around_core(
    wiring: Wiring, kind: str, q: str, k: str, v: str, core: int
) -> Iterator[tuple[int, str]]:
    parts: dict[int, str] = {}
    for value, letter in ((q, "q"), (k, "k"), (v, "v")):
        layer = _projection(wiring, value)
        if layer is not None:
            parts[layer] = parts.get(layer, "") + letter
    yield from ((layer, f"{kind}.{letters}") for layer, letters in parts.items())
    following = {
        wiring.index_of[node.name]
        for node in wiring.after(wiring.layers[core].output, lambda node: node.op_type in MOVES)
        if wiring.is_layer(node)
    }
    for index in following if len(following) == 1 else ():
        if wiring.layers[index].has_weight:
            yield index, f"{kind}.out"


def feed_forward_roles(wiring: Wiring) -> Iterator[tuple[int, str]]:
    """Yield layer and role for every pair that widens, passes a nonlinearity and narrows again.

    With two layers in front whose outputs are multiplied, the gate is the one that the nonlinearity
    follows.
    """
    for index, layer in enumerate(wiring.layers):
        if layer.op_type not in DENSE or not layer.has_weight:
            continue
        value = layer.gemms[0].left.value
        widening = wiring.producers.get(value, ())
        if not 1 <= len(widening) <= 2 or not all(_widens(wiring, i, layer) for i in widening):
            continue
        if not _bends(wiring, value):
            continue
        yield index, "feed-forward.down"
        if len(widening) == 1:
            yield widening[0], "feed-forward.up"
            continue
        bent = [i for i in widening if _is_bent(wiring, i)]
        for i in widening:
            yield i, "feed-forward.gate" if bent == [i] else "feed-forward.up"


def _widens(wiring: Wiring, index: int, down: Layer) -> bool:
    up = wiring.layers[index]
    if up.op_type not in DENSE or not up.has_weight:
        return False
    return up.n > up.k == down.n and up.n in (down.k, 2 * down.k)


def _between(node: Node) -> bool:
    return node.op_type in ARITHMETIC or node.op_type in NONLINEAR or node.op_type in MOVES


def _bends(wiring: Wiring, value: str) -> bool:
    return any(node.op_type in NONLINEAR for node in wiring.before(value, _between))


def _is_bent(wiring: Wiring, index: int) -> bool:
    """Return whether a nonlinearity reads the layer's output before another layer's is multiplied in."""

    def alone(node: Node) -> bool:
        if node.op_type not in ARITHMETIC | MOVES:
            return False
        return all(wiring.producers.get(name, ()) in ((), (index,)) for name in node.inputs)

    return any(
        node.op_type in NONLINEAR for node in wiring.after(wiring.layers[index].output, alone)
    )
