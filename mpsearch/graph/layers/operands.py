"""Operands of matrix products: weights and activations, and sizes that may be unknown."""

from collections.abc import Callable, Iterable, Mapping

from mpsearch.graph.model import Node, Operand
from mpsearch.graph.onnx_file.constants import Constant

Shape = tuple[int | None, ...] | None
ShapeOf = Callable[[str], Shape]


def size(shape: Shape, axis: int) -> int | None:
    """Return the size of ``axis``, None if unknown."""
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    return shape[axis]


def product(factors: Iterable[int | None]) -> int:
    """Return the product of sizes, 0 if one of them is unknown."""
    result = 1
    for factor in factors:
        result *= factor or 0
    return result


def whole(value: object, otherwise: int) -> int:
    """Return an attribute that must be an integer."""
    return value if isinstance(value, int) else otherwise


def input_name(node: Node, index: int) -> str:
    """Return the name of an input, "" if it is absent."""
    return node.inputs[index] if index < len(node.inputs) else ""


def is_weight(name: str, constants: Mapping[str, Constant]) -> bool:
    """Return whether the value is a constant floating-point tensor with at least one axis."""
    constant = constants.get(name)
    return constant is not None and constant.is_float and len(constant.shape) > 0


def operand(
    node: Node,
    index: int,
    constants: Mapping[str, Constant],
    *,
    reduction: int,
    channels: tuple[int, ...] = (),
    groups: int = 1,
) -> Operand:
    """Return input ``index`` of ``node`` as an operand; only weights have ``channels``."""
    name = input_name(node, index)
    weight = is_weight(name, constants)
    return Operand(
        value=name,
        source=constants[name].source if weight else "",
        input_index=index,
        reduction_axis=reduction,
        channel_axes=channels if weight else (),
        groups=groups,
    )


def internal(reduction: int, groups: int = 1) -> Operand:
    """Return an operand that exists inside the operator alone (a hidden state, probabilities)."""
    return Operand("", "", -1, reduction, (), groups)
