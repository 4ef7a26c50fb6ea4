"""The matrix products inside one node, and how large they are."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mpsearch.graph.layers.operands import (
    Shape,
    ShapeOf,
    input_name,
    is_weight,
    operand,
    product,
    size,
    whole,
)
from mpsearch.graph.layers.products_attention import attention, fused_attention
from mpsearch.graph.layers.products_einsum import einsum
from mpsearch.graph.layers.products_recurrent import recurrent
from mpsearch.graph.model import Gemm, Node
from mpsearch.graph.onnx_file.constants import Constant

Products = Callable[[Node, ShapeOf, Mapping[str, Constant]], tuple[Gemm, ...]]


def gemms_of(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    """Return the matrix products of ``node``, () if it has none that a scheme could be chosen for.

    Args:
        node: Any operator.
        shape_of: Shape of a value by name. A size that is None makes the sizes that need it 0.
        constants: Tells weights from activations, and where they stem from.
    """
    find = _PRODUCTS.get((node.domain, node.op_type))
    return () if find is None else find(node, shape_of, constants)


def _conv(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    """M = batch × output positions, N = output channels, K = kernel positions × channels of a group."""
    weight, output = shape_of(input_name(node, 1)), shape_of(node.outputs[0])
    if weight is None or len(weight) < 3:
        return ()
    groups = whole(node.attributes.get("group"), 1)
    positions = product(weight[2:])
    out = (None,) if output is None else (output[0], *output[2:])
    return (
        Gemm(
            m=product(out),
            n=weight[0] or 0,
            k=(weight[1] or 0) * positions,
            left=operand(node, 0, constants, reduction=1, groups=groups),
            right=operand(node, 1, constants, reduction=1, channels=(0,)),
            has_weight=is_weight(input_name(node, 1), constants),
            positions=positions,
            groups=groups,
        ),
    )


def _conv_transpose(
    node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]
) -> tuple[Gemm, ...]:
    """M = batch × *input* positions: each is multiplied by the whole kernel, N and K as of Conv."""
    weight, x = shape_of(input_name(node, 1)), shape_of(input_name(node, 0))
    if weight is None or len(weight) < 3:
        return ()
    groups = whole(node.attributes.get("group"), 1)
    positions = product(weight[2:])
    return (
        Gemm(
            m=product((None,) if x is None else (x[0], *x[2:])),
            n=(weight[1] or 0) * groups,
            k=(weight[0] or 0) // max(groups, 1) * positions,
            left=operand(node, 0, constants, reduction=1, groups=groups),
            right=operand(node, 1, constants, reduction=0, channels=(1,), groups=groups),
            has_weight=is_weight(input_name(node, 1), constants),
            positions=positions,
            groups=groups,
        ),
    )


def _gemm(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    a, b = shape_of(input_name(node, 0)), shape_of(input_name(node, 1))
    trans_a = bool(whole(node.attributes.get("transA"), 0))
    trans_b = bool(whole(node.attributes.get("transB"), 0))
    rows, k_of_a = size(a, 1 if trans_a else 0), size(a, 0 if trans_a else 1)
    columns, k_of_b = size(b, 0 if trans_b else 1), size(b, 1 if trans_b else 0)
    axis_a, axis_b = (0 if trans_a else 1), (1 if trans_b else 0)
    if is_weight(input_name(node, 0), constants) and not is_weight(input_name(node, 1), constants):
        return (
            Gemm(
                m=columns or 0,
                n=rows or 0,
                k=k_of_a or k_of_b or 0,
                left=operand(node, 1, constants, reduction=axis_b),
                right=operand(node, 0, constants, reduction=axis_a, channels=(1 - axis_a,)),
            ),
        )
    return (
        Gemm(
            m=rows or 0,
            n=columns or 0,
            k=k_of_b or k_of_a or 0,
            left=operand(node, 0, constants, reduction=axis_a),
            right=operand(node, 1, constants, reduction=axis_b, channels=(1 - axis_b,)),
            has_weight=is_weight(input_name(node, 1), constants),
        ),
    )


def _matmul(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    if node.op_type == "FusedMatMul" and any(
        node.attributes.get(name) for name in ("transA", "transB", "transBatchA", "transBatchB")
    ):
        return ()
    first, second = (is_weight(input_name(node, index), constants) for index in (0, 1))
    a, b = shape_of(input_name(node, 0)), shape_of(input_name(node, 1))
    if second:
        return _matmul_weight(node, a, b, constants)
    if first:
        return _weight_matmul(node, a, b, constants)
    k = size(a, -1) or size(b, -2 if b is not None and len(b) > 1 else -1) or 0
    rows = size(a, -2) if a is not None and len(a) > 1 else 1
    columns = size(b, -1) if b is not None and len(b) > 1 else 1
    batch_a, batch_b = () if a is None else a[:-2], () if b is None else b[:-2]
    left = operand(node, 0, constants, reduction=-1)
    right = operand(node, 1, constants, reduction=-2 if b is None or len(b) > 1 else -1)
    flat = a is not None and b is not None and all(axis == 1 for axis in batch_b)
    m = product((*batch_a, rows)) if flat else product((rows,))
    calls = 1 if flat else (product(_joint(batch_a, batch_b)) if a and b else 0)
    return (
        Gemm(
            m=m if a is not None else 0,
            n=product((columns,)) if b is not None else 0,
            k=k,
            left=left,
            right=right,
            has_weight=False,
            calls=calls,
            batch_in_m=flat,
        ),
    )


def _joint(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return the broadcast of two batch shapes."""
    n = max(len(a), len(b))
    a, b = (1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _matmul_weight(
    node: Node, a: Shape, b: Shape, constants: Mapping[str, Constant]
) -> tuple[Gemm, ...]:
    """A stack of weights is one product with groups: N counts the channels of all of them."""
    assert b is not None
    vector = len(b) == 1
    stack = product(b[:-2])
    per_call = 1 if a is None else _repeats(a[:-2], b[:-2])
    rows = 1 if a is not None and len(a) == 1 else size(a, -2)
    channels = () if vector else (*(axis for axis in range(len(b) - 2) if b[axis] != 1), len(b) - 1)
    return (
        Gemm(
            m=product((rows, per_call)),
            n=1 if vector else product((b[-1], stack)),
            k=product((b[-1] if vector else b[-2],)),
            left=operand(node, 0, constants, reduction=-1),
            right=operand(
                node, 1, constants, reduction=0 if vector else len(b) - 2, channels=channels
            ),
            groups=1 if vector else stack,
        ),
    )


def _weight_matmul(
    node: Node, a: Shape, b: Shape, constants: Mapping[str, Constant]
) -> tuple[Gemm, ...]:
    """The weight on the left: channels are its rows, M runs over the columns of the activation."""
    assert a is not None
    vector = len(a) == 1
    stack = product(a[:-2])
    per_call = 1 if b is None else _repeats(b[:-2], a[:-2])
    columns = 1 if b is not None and len(b) == 1 else size(b, -1)
    channels = () if vector else (*(axis for axis in range(len(a) - 2) if a[axis] != 1), len(a) - 2)
    flat = b is not None and len(b) == 1
    return (
        Gemm(
            m=product((columns, per_call)),
            n=1 if vector else product((a[-2], stack)),
            k=product((a[-1],)),
            left=operand(node, 1, constants, reduction=-1 if flat else -2),
            right=operand(node, 0, constants, reduction=len(a) - 1, channels=channels),
            groups=1 if vector else stack,
        ),
    )


def _repeats(batch: tuple[int | None, ...], stack: tuple[int | None, ...]) -> int:
    """Return how many rows' blocks each weight of ``stack`` is applied to."""
    n = max(len(batch), len(stack))
    batch, stack = (1,) * (n - len(batch)) + batch, (1,) * (n - len(stack)) + stack
    return product(x for x, w in zip(batch, stack, strict=True) if w == 1)


_PRODUCTS: Mapping[tuple[str, str], Products] = MappingProxyType(
    {
        ("", "Conv"): _conv,
        ("", "ConvTranspose"): _conv_transpose,
        ("", "Gemm"): _gemm,
        ("", "MatMul"): _matmul,
        ("", "Einsum"): einsum,
        ("", "LSTM"): recurrent,
        ("", "GRU"): recurrent,
        ("", "RNN"): recurrent,
        ("", "Attention"): attention,
        ("com.microsoft", "FusedConv"): _conv,
        ("com.microsoft", "FusedGemm"): _gemm,
        ("com.microsoft", "FusedMatMul"): _matmul,
        ("com.microsoft", "Attention"): fused_attention,
    }
)
