"""LSTM, GRU and RNN: one product with the input, one with the hidden state."""

from collections.abc import Mapping

from mpsearch.graph.layers.operands import (
    ShapeOf,
    input_name,
    internal,
    is_weight,
    operand,
    product,
    size,
)
from mpsearch.graph.model import Gemm, Node
from mpsearch.graph.onnx_file.constants import Constant


def recurrent(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    """Return the input product (all steps at once) and the recurrent one (a call a step).

    N counts gates × hidden units of both directions together; the weights are stored as
    [directions, gates × hidden, K].
    """
    weight, state = shape_of(input_name(node, 1)), shape_of(input_name(node, 2))
    if not all(is_weight(input_name(node, index), constants) for index in (1, 2)):
        return ()
    if weight is None or state is None or len(weight) != 3 or len(state) != 3:
        return ()
    x = shape_of(input_name(node, 0))
    batch_first = node.attributes.get("layout", 0) == 1
    steps, batch = size(x, 1 if batch_first else 0), size(x, 0 if batch_first else 1)
    directions = weight[0] or 0
    return (
        Gemm(
            m=product((steps, batch)),
            n=product(weight[:2]),
            k=weight[2] or 0,
            left=operand(node, 0, constants, reduction=2),
            right=operand(node, 1, constants, reduction=2, channels=(0, 1)),
        ),
        Gemm(
            m=product((batch,)),
            n=product(state[:2]),
            k=state[2] or 0,
            left=internal(2),
            right=operand(node, 2, constants, reduction=2, channels=(0, 1)),
            groups=directions,
            calls=product((steps,)),
        ),
    )
