"""One operator on arrays, for folding: numpy where that is quick, ``onnx.reference`` otherwise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from mpsearch.graph.onnx_file.constants import Array

Attributes = Mapping[str, Any]

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def evaluate(node: onnx.NodeProto, version: int, inputs: Sequence[Array | None]) -> list[Array]:
    """Return the outputs of ``node`` on ``inputs`` (None: absent), by its opset ``version``.

    Raises:
        Exception: Whatever numpy or the reference evaluator raise; the caller then does not fold.
    """
    quick = _QUICK.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if quick is not None:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        with np.errstate(all="ignore"):
            result = quick(attributes, version, list(inputs))
        if result is not None:
            return [np.asarray(result)]
    return _reference(node, version, inputs)


def can_evaluate(node: onnx.NodeProto, version: int) -> bool:
    """Return whether :func:`evaluate` knows the operator, without evaluating it."""
    if node.domain in ("", "ai.onnx") and node.op_type in _QUICK:
        return True
    try:
        ReferenceEvaluator(_alone(node, version, {}, [name for name in node.output if name]))
    except Exception:
        return False
    return True


def _reference(node: onnx.NodeProto, version: int, inputs: Sequence[Array | None]) -> list[Array]:
    feeds = {name: x for name, x in zip(node.input, inputs, strict=True) if name and x is not None}
    wanted = [name for name in node.output if name]
    evaluator = ReferenceEvaluator(_alone(node, version, feeds, wanted))
    with np.errstate(all="ignore"):
        found = evaluator.run(wanted, feeds)
    by_name = dict(zip(wanted, found, strict=True))
    return [np.asarray(by_name[name]) if name else np.zeros(0) for name in node.output]


def _alone(
    node: onnx.NodeProto, version: int, feeds: Mapping[str, Array], wanted: Sequence[str]
) -> onnx.ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
        )
        for name, x in feeds.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in wanted]
    graph = onnx.helper.make_graph([node], "fold", inputs, outputs)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)]
    )


def constant_value(node: onnx.NodeProto) -> Array | onnx.TensorProto | None:
    """Return what a Constant node holds; None for a kind that is not understood."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name == "value_float":
            return np.array(attribute.f, np.float32)
        if attribute.name == "value_int":
            return np.array(attribute.i, np.int64)
        if attribute.name == "value_floats":
            return np.array(attribute.floats, np.float32)
        if attribute.name == "value_ints":
            return np.array(attribute.ints, np.int64)
        if attribute.name == "value_string":
            return np.array(attribute.s.decode(errors="replace"), object)
        if attribute.name == "value_strings":
            return np.array([s.decode(errors="replace") for s in attribute.strings], object)
    return None


def _axes(attributes: Attributes, inputs: Sequence[Any]) -> tuple[int, ...] | None:
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(axis) for axis in inputs[1])
    axes = attributes.get("axes")
    return None if axes is None else tuple(axes)


def _cast(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))
    plain = "biuf"
    if dtype.kind not in plain or inputs[0].dtype.kind not in plain:
        return None  # strings, and narrow types with their own rounding
    return inputs[0].astype(dtype)


def _reshape(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    x = inputs[0]
    target = [int(size) for size in inputs[1]]
    if not attributes.get("allowzero", 0):
        target = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return x.reshape(target)


def _unsqueeze(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    axes = _axes(attributes, inputs)
    return None if axes is None else np.expand_dims(inputs[0], axes)


def _slice(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    x = inputs[0]
    if version < 10:
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes"), None
    else:
        starts, ends = inputs[1], inputs[2]
        axes = inputs[3] if len(inputs) > 3 else None
        steps = inputs[4] if len(inputs) > 4 else None
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        start, end, step, size = int(start), int(end), int(step), x.shape[axis]
        if step < 0 and end < -size:  # ONNX clamps to one before the first element
            cut[axis] = slice(start, None, step)
        else:
            cut[axis] = slice(start, end, step)
    return x[tuple(cut)]


def _concat(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    return np.concatenate(inputs, axis=attributes["axis"])


def _gather(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    return np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0))


def _div(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    a, b = inputs
    if a.dtype.kind not in "iu":
        return a / b
    if not np.all(b):
        return None
    quotient = np.abs(a) // np.abs(b)  # truncates toward zero, as ONNX does
    return (quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _constant_of_shape(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    value = attributes.get("value")
    filled = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return np.broadcast_to(filled.reshape(()), tuple(int(size) for size in inputs[0]))


def _expand(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    x, target = inputs
    shape = np.broadcast_shapes(x.shape, tuple(int(size) for size in target))
    return np.broadcast_to(x, shape)


def _dequantize(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    x, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 else None
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    if scale.ndim == 0 or scale.size == 1:
        scale, zero = scale.reshape(()), None if zero is None else zero.reshape(())
    elif block:
        scale = np.repeat(scale, block, axis)[_upto(x.shape[axis], axis, x.ndim)]
        if zero is not None:
            zero = np.repeat(zero, block, axis)[_upto(x.shape[axis], axis, x.ndim)]
    else:
        shape = [1] * x.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), None if zero is None else zero.reshape(shape)
    wide = x.astype(np.float32)
    return (wide if zero is None else wide - zero.astype(np.float32)) * scale


def _upto(size: int, axis: int, n_axes: int) -> tuple[slice, ...]:
    cut = [slice(None)] * n_axes
    cut[axis] = slice(size)
    return tuple(cut)


def _transpose(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    return inputs[0].transpose(attributes.get("perm"))


def _flatten(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
    x, axis = inputs[0], attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1) if x.size else None


def _elementwise(function: Callable[..., Any]) -> Callable[[Attributes, int, list[Any]], Any]:
    def apply(attributes: Attributes, version: int, inputs: list[Any]) -> Any:
        if any(x is None or x.dtype.kind not in "biuf" for x in inputs):
            return None
        result = function(*inputs)
        return result if result.dtype.kind == "b" else result.astype(inputs[-1].dtype, copy=False)

    return apply


_QUICK: Mapping[str, Callable[[Attributes, int, list[Any]], Any]] = {
    "Add": _elementwise(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Equal": _elementwise(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "Identity": lambda attributes, version, inputs: inputs[0],
    "Less": _elementwise(np.less),
    "Mul": _elementwise(np.multiply),
    "Not": _elementwise(np.logical_not),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": _elementwise(np.sqrt),
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(np.where),
}
ELEMENTWISE = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "Ceil",
        "Div",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Sign",
        "Sqrt",
        "Sub",
        "Where",
        "Xor",
    }
)
MOVING = frozenset(
    {
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
