"""Attention as one operator: scores, weighted values, and projections where it owns them."""

from collections.abc import Mapping

from mpsearch.graph.constants import Constant
from mpsearch.graph.model import Gemm, Node
from mpsearch.graph.operands import (
    Shape,
    ShapeOf,
    input_name,
    internal,
    is_weight,
    operand,
    product,
    size,
    whole,
)


def attention(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    """Return Q·Kᵀ and P·V of ONNX's Attention, whose operands are activations."""
    q, k, v = (shape_of(input_name(node, index)) for index in range(3))
    past = size(shape_of(input_name(node, 4)), -2) or 0
    heads = whole(node.attributes.get("q_num_heads"), 0)
    kv_heads = whole(node.attributes.get("kv_num_heads"), heads)
    if q is not None and len(q) == 4:
        heads = q[1] or 0
        head, value_head = size(q, 3), size(v, 3)
    else:
        head, value_head = _split(q, heads), _split(v, kv_heads)
    return _scores(
        node,
        constants,
        size(q, 0),
        heads,
        size(q, -2),
        _longer(size(k, -2), past),
        head,
        value_head,
    )


def multi_head_attention(
    node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]
) -> tuple[Gemm, ...]:
    """Return Q·Kᵀ and P·V of onnxruntime's MultiHeadAttention with separate 3-D operands."""
    if not all(input_name(node, index) for index in range(3)):
        return ()
    q, k, v = (shape_of(input_name(node, index)) for index in range(3))
    heads = whole(node.attributes.get("num_heads"), 0)
    keys = size(k, -2)
    return _scores(
        node, constants, size(q, 0), heads, size(q, 1), keys, _split(q, heads), _split(v, heads)
    )


def fused_attention(
    node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]
) -> tuple[Gemm, ...]:
    """Return the q/k/v projection, Q·Kᵀ and P·V of onnxruntime's Attention."""
    x, weight = shape_of(input_name(node, 0)), shape_of(input_name(node, 1))
    if not is_weight(input_name(node, 1), constants) or weight is None or len(weight) != 2:
        return ()
    heads = whole(node.attributes.get("num_heads"), 0)
    width = (weight[1] or 0) // 3
    head = width // heads if heads else None
    batch, length = size(x, 0), size(x, 1)
    projection = Gemm(
        m=product((batch, length)),
        n=weight[1] or 0,
        k=weight[0] or 0,
        left=operand(node, 0, constants, reduction=2),
        right=operand(node, 1, constants, reduction=0, channels=(1,)),
    )
    calls = product((batch, heads))
    tokens = product((length,))
    return (
        projection,
        Gemm(
            m=tokens,
            n=tokens,
            k=product((head,)),
            left=internal(-1),
            right=internal(-1),
            has_weight=False,
            calls=calls,
            batch_in_m=False,
        ),
        Gemm(
            m=tokens,
            n=product((head,)),
            k=tokens,
            left=internal(-1),
            right=internal(-2),
            has_weight=False,
            calls=calls,
            batch_in_m=False,
        ),
    )


def _split(shape: Shape, heads: int) -> int | None:
    width = size(shape, -1)
    return None if width is None or heads <= 0 else width // heads


def _longer(length: int | None, past: int) -> int | None:
    return None if length is None else length + past


def _scores(
    node: Node,
    constants: Mapping[str, Constant],
    batch: int | None,
    heads: int,
    queries: int | None,
    keys: int | None,
    head: int | None,
    value_head: int | None,
) -> tuple[Gemm, ...]:
    calls = product((batch, heads))
    return (
        Gemm(
            m=product((queries,)),
            n=product((keys,)),
            k=product((head,)),
            left=operand(node, 0, constants, reduction=-1),
            right=operand(node, 1, constants, reduction=-1),
            has_weight=False,
            calls=calls,
            batch_in_m=False,
        ),
        Gemm(
            m=product((queries,)),
            n=product((value_head,)),
            k=product((keys,)),
            left=internal(-1),
            right=operand(node, 2, constants, reduction=-2),
            has_weight=False,
            calls=calls,
            batch_in_m=False,
        ),
    )
