"""Draws of operators that work element by element."""

from collections.abc import Callable, Mapping

import numpy as np

from tests.support.random_operators.draw import Array, Case, Draw, Maker, broadcastable

_INTEGERS = ("int8", "int32", "int64", "uint8")


def _shape(draw: Draw) -> list[int]:
    return draw.shape(0, 5, 4, 0 if draw.chance(0.05) else 1)


def _plain(draw: Draw) -> Case:
    return draw.case(draw.floats(_shape(draw), draw.float_type()))


def _signed(draw: Draw) -> Case:
    return draw.case(draw.numbers(_shape(draw), draw.pick("float32", "float16", "int32", "int8")))


def _within(low: float, high: float) -> Maker:
    def make(draw: Draw) -> Case:
        shape, kind = _shape(draw), draw.float_type()
        return draw.case(draw.rng.uniform(low, high, tuple(shape)).astype(kind))

    return make


def _shaped(options: Callable[[Draw], Mapping[str, object]]) -> Maker:
    def make(draw: Draw) -> Case:
        kind = draw.pick("float32", "float32", "float64")
        return draw.case(draw.floats(_shape(draw), kind), attributes=draw.given(options(draw)))

    return make


def _pair(draw: Draw, kinds: tuple[str, ...]) -> tuple[Array, Array]:
    shape, kind = _shape(draw), draw.pick(*kinds)
    one, other = draw.numbers(shape, kind), draw.numbers(broadcastable(draw, shape), kind)
    return (other, one) if draw.chance(0.3) else (one, other)


_NUMBERS = ("float32", "float32", "float16", "float64", "int32", "int64")


def _binary(*kinds: str) -> Maker:
    return lambda draw: draw.case(*_pair(draw, kinds))


def _divide(draw: Draw) -> Case:
    one, other = _pair(draw, _NUMBERS)
    other = np.where(other == 0, np.ones_like(other), other).astype(other.dtype)
    return draw.case(one, other)


def _equal(draw: Draw) -> Case:
    kinds = ("bool", "int32", "int64", "float32") if draw.opset >= 11 else ("bool", "int32")
    return draw.case(*_pair(draw, kinds))


def _power(draw: Draw) -> Case:
    shape = _shape(draw)
    base = draw.pick("float32", "float32", "int32", "int64") if draw.opset >= 12 else "float32"
    raised = draw.pick("float32", "int32", "int64") if draw.opset >= 12 else "float32"
    other = broadcastable(draw, shape)
    exponent = draw.integers(other, 0, 3).astype(raised)
    if base == raised == "float32" and draw.chance():
        return draw.case(
            np.abs(draw.floats(shape)) + np.float32(0.1), draw.floats(other, scale=1.0)
        )
    return draw.case(draw.numbers(shape, base), exponent)


def _modulo(draw: Draw) -> Case:
    fmod = draw.chance()
    kinds = ("int8", "int32", "int64", "uint8") + (("float32", "float16") if fmod else ())
    one, other = _pair(draw, kinds)
    other = np.where(other == 0, np.ones_like(other), other).astype(other.dtype)
    return draw.case(one, other, attributes={"fmod": 1} if fmod else {})


def _variadic(draw: Draw) -> Case:
    shape = _shape(draw)
    wide = draw.op_type in ("Max", "Min") and draw.opset >= 12
    kind = draw.pick(*(("float32", "float16", "int32", "int64", "uint8") if wide else ("float32",)))
    rest = [broadcastable(draw, shape) for _ in range(draw.between(0, 3))]
    arrays = [draw.numbers(s, kind) for s in [shape, *rest]]
    return draw.case(*arrays)


def _slope(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    return draw.case(draw.floats(shape), draw.floats(broadcastable(draw, shape)), fixed=(1,))


def _choice(draw: Draw) -> Case:
    shape = _shape(draw)
    kind = draw.pick("float32", "int64", "uint8", "int32")
    shapes = [shape, broadcastable(draw, shape), broadcastable(draw, shape)]
    order = draw.rng.permutation(3)
    return draw.case(
        draw.truths(shapes[order[0]]),
        draw.numbers(shapes[order[1]], kind),
        draw.numbers(shapes[order[2]], kind),
    )


def _clip(draw: Draw) -> Case:
    low, high = draw.number(-3, 0), draw.number(-1, 3)
    if draw.opset < 11:
        return draw.case(
            draw.floats(_shape(draw)), attributes=draw.given({"min": low, "max": max(low, high)})
        )
    kind = draw.pick("float32", "float32", "float16", "int32", "int64", "uint8", "int8")
    if draw.opset < 12:
        kind = "float32"
    edges: list[Array | None] = [
        np.array(abs(v) if kind == "uint8" else v).astype(kind) if draw.chance(0.7) else None
        for v in (low, high)
    ]
    while edges and edges[-1] is None:
        edges.pop()
    return draw.case(draw.numbers(_shape(draw), kind), *edges, fixed=(1, 2))


def _infinite(draw: Draw) -> Case:
    x = draw.floats(_shape(draw), draw.pick("float32", "float64"))
    x = np.where(draw.truths(x.shape), x, np.copysign(np.inf, x)).astype(x.dtype)
    options = {"detect_positive": draw.between(0, 1), "detect_negative": draw.between(0, 1)}
    return draw.case(x, attributes=draw.given(options))


def _not_a_number(draw: Draw) -> Case:
    x = draw.floats(_shape(draw), draw.float_type())
    return draw.case(np.where(draw.truths(x.shape), x, np.nan).astype(x.dtype))


def _shift(draw: Draw) -> Case:
    shape = _shape(draw)
    kind = draw.pick("uint8", "uint32", "uint64")
    amounts = draw.integers(broadcastable(draw, shape), 0, 6, kind)
    return draw.case(
        draw.integers(shape, 0, 200, kind),
        amounts,
        attributes={"direction": draw.pick("LEFT", "RIGHT")},
    )


def _cast(draw: Draw) -> Case:
    kinds = ("float32", "float16", "float64", "int32", "int64", "uint8", "int8", "bool", "int16")
    source, target = draw.pick(*kinds), draw.pick(*kinds)
    numbers = {
        "float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
        "float16": 10, "float64": 11,
    }  # fmt: skip
    x = draw.numbers(_shape(draw), source)
    if target.startswith("u"):
        x = np.abs(x) if x.dtype != bool else x
    if draw.op_type == "CastLike":
        return draw.case(x, draw.numbers([1], target), fixed=(1,))
    return draw.case(x, attributes={"to": numbers[target]})


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(
        (
            "Asinh", "Atan", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "HardSwish", "Mish",
            "Round", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh",
        ),
        _plain,
    ),
    **dict.fromkeys(("Abs", "Neg", "Sign", "Relu"), _signed),
    **dict.fromkeys(("Acos", "Asin", "Atanh"), _within(-0.95, 0.95)),
    "Acosh": _within(1.05, 9),
    "Log": _within(0.01, 9),
    "Sqrt": _within(0, 9),
    "Reciprocal": _within(0.2, 4),
    "Elu": _shaped(lambda d: {"alpha": d.number(0.2, 2)}),
    "Celu": _shaped(lambda d: {"alpha": d.number(0.2, 2)}),
    "LeakyRelu": _shaped(lambda d: {"alpha": d.number(-0.5, 2)}),
    "Selu": _shaped(lambda d: {"alpha": d.number(0.5, 2), "gamma": d.number(0.5, 2)}),
    "HardSigmoid": _shaped(lambda d: {"alpha": d.number(0.1, 0.4), "beta": d.number(0.1, 0.9)}),
    "ThresholdedRelu": _shaped(lambda d: {"alpha": d.number(-1, 2)}),
    "Shrink": _shaped(lambda d: {"bias": d.number(-1, 1), "lambd": d.number(0, 1.5)}),
    "Gelu": _shaped(lambda d: {"approximate": d.pick("none", "tanh")}),
    "Swish": _shaped(lambda d: {"alpha": d.number(0.5, 2)}),
    **dict.fromkeys(("Add", "Sub", "Mul"), _binary(*_NUMBERS)),
    "Div": _divide,
    "Equal": _equal,
    **dict.fromkeys(("Greater", "Less"), _binary("float32", "float64", "int32", "int64")),
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual"), _binary("float32", "int32", "int64")),
    **dict.fromkeys(("And", "Or", "Xor"), _binary("bool")),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), _binary(*_INTEGERS)),
    "Not": lambda draw: draw.case(draw.truths(_shape(draw))),
    "BitwiseNot": lambda draw: draw.case(draw.numbers(_shape(draw), draw.pick(*_INTEGERS))),
    "BitShift": _shift,
    "Pow": _power,
    "Mod": _modulo,
    **dict.fromkeys(("Max", "Min", "Sum", "Mean"), _variadic),
    "PRelu": _slope,
    "Where": _choice,
    "Clip": _clip,
    "IsInf": _infinite,
    "IsNaN": _not_a_number,
    "Cast": _cast,
    "CastLike": _cast,
}  # fmt: skip
