"""Attention as one operator: scores, weighted values, and projections where it owns them."""

from collections.abc import Mapping

from mpsearch.graph.layers.operands import (
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
from mpsearch.graph.model import Gemm, Node
from mpsearch.graph.onnx_file.constants import Constant


def attention(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    """Return Q·Kᵀ and P·V of ONNX's Attention, whose operands are activations."""
    heads = whole(node.attributes.get("q_num_heads"), 0)
    kv_heads = whole(node.attributes.get("kv_num_heads"), heads)
    past = size(shape_of(input_name(node, 4)), -2) or 0
    return _separate(node, shape_of, constants, heads, kv_heads, past)


def _separate(
    node: Node,
    shape_of: ShapeOf,
    constants: Mapping[str, Constant],
    heads: int,
    kv_heads: int,
    past: int,
) -> tuple[Gemm, ...]:
    """Return both products of operands [batch, heads, tokens, head] or [batch, tokens, width]."""
    q, k, v = (shape_of(input_name(node, index)) for index in range(3))
    flat = q is None or len(q) != 4  # heads lie side by side in the last axis
    if not flat:
        heads, kv_heads = size(q, 1) or 0, size(k, 1) or 0
    head = _split(q, heads) if flat else size(q, 3)
    value_head = _split(v, kv_heads) if flat else size(v, 3)
    length = size(k, -2)
    keys = product((None if length is None else length + past,))
    calls = product((size(q, 0), heads))
    return (
        Gemm(
            m=product((size(q, -2),)),
            n=keys,
            k=product((head,)),
            left=operand(node, 0, constants, reduction=-1, groups=heads if flat else 1),
            right=operand(node, 1, constants, reduction=-1, groups=kv_heads if flat else 1),
            has_weight=False,
            calls=calls,
            batch_in_m=False,
        ),
        Gemm(
            m=product((size(q, -2),)),
            n=product((value_head,)),
            k=keys,
            left=internal(-1),
            right=operand(node, 2, constants, reduction=-2),
            has_weight=False,
            calls=calls,
            batch_in_m=False,
        ),
    )


def fused_attention(
    node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]
) -> tuple[Gemm, ...]:
    """Return the q/k/v projection of onnxruntime's Attention, in a form that is not spelt out.

    Its products of two activations exist inside the operator alone.
    """
    x, weight = shape_of(input_name(node, 0)), shape_of(input_name(node, 1))
    if not is_weight(input_name(node, 1), constants) or weight is None or len(weight) != 2:
        return ()
    return (
        Gemm(
            m=product((size(x, 0), size(x, 1))),
            n=weight[1] or 0,
            k=weight[0] or 0,
            left=operand(node, 0, constants, reduction=2),
            right=operand(node, 1, constants, reduction=0, channels=(1,)),
        ),
    )


def _split(shape: Shape, heads: int) -> int | None:
    width = size(shape, -1)
    return None if width is None or heads <= 0 else width // heads
