"""Inferred types as values of the model."""

from collections.abc import Sequence

import onnx

from mpsearch.graph.folding.types_of_outputs import Types, sizes, tensor_type
from mpsearch.graph.model import Value
from mpsearch.graph.onnx_file.read import element_type


def as_value(name: str, types: Types | None, free_probes: Sequence[int] = ()) -> Value:
    """Return the value ``name`` with the sizes of the first probe.

    Sizes that differ in one of ``free_probes``, which vary axes that nobody bound, are unknown.
    """
    kind = types[0] if types else None
    if kind is None or kind.WhichOneof("value") != "tensor_type":
        return Value(name, None, None)
    shape = sizes(kind)
    code = kind.tensor_type.elem_type
    dtype = (
        element_type(code, f"value {name!r}").name if code != onnx.TensorProto.UNDEFINED else None
    )
    for probe in free_probes:
        other = None if types is None else sizes(types[probe])
        if shape is None:
            break
        if other is None or len(other) != len(shape):
            shape = (None,) * len(shape)
        else:
            shape = tuple(a if a == b else None for a, b in zip(shape, other, strict=True))
    return Value(name, shape, dtype)


def size_at(types: Types, axis: int, probe: int) -> int | None:
    """Return the size of ``axis`` in one probe, None if unknown."""
    shape = sizes(types[probe])
    return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None


def sliced(types: Types, axis: int) -> Types:
    """Return the types of one step of scanned tensors."""
    result: list[onnx.TypeProto | None] = []
    for kind in types:
        shape = sizes(kind)
        if kind is None or shape is None or not -len(shape) <= axis < len(shape):
            result.append(None)
            continue
        rest = list(shape)
        del rest[axis]
        result.append(tensor_type(kind.tensor_type.elem_type, rest))
    return shared(result)


def stacked(types: Types | None, lengths: Sequence[int | None] | None, axis: int) -> Types:
    """Return the types of tensors stacked along a new ``axis`` of ``lengths`` (one a probe)."""
    result: list[onnx.TypeProto | None] = []
    for probe, kind in enumerate(types or ()):
        shape = sizes(kind)
        if kind is None or shape is None or not -len(shape) - 1 <= axis <= len(shape):
            result.append(None)
            continue
        full = list(shape)
        full.insert(
            axis if axis >= 0 else len(full) + 1 + axis, lengths[probe] if lengths else None
        )
        result.append(tensor_type(kind.tensor_type.elem_type, full))
    return shared(result)


def merged(a: Types | None, b: Types | None, n_probes: int) -> Types:
    """Return types that hold for values of either type."""
    result: list[onnx.TypeProto | None] = []
    for one, other in zip(a or (None,) * n_probes, b or (None,) * n_probes, strict=True):
        if one is None or other is None or one == other:
            result.append(one if one == other else None)
            continue
        shape, second = sizes(one), sizes(other)
        code = one.tensor_type.elem_type
        if one.WhichOneof("value") != "tensor_type" or code != other.tensor_type.elem_type:
            result.append(None)
        elif shape is None or second is None or len(shape) != len(second):
            result.append(tensor_type(code, None))
        else:
            joint = [x if x == y else None for x, y in zip(shape, second, strict=True)]
            result.append(tensor_type(code, joint))
    return shared(result)


def shared(types: Sequence[onnx.TypeProto | None]) -> Types:
    """Return ``types`` with those equal to the first being the same object."""
    first = types[0] if types else None
    return tuple(first if kind == first else kind for kind in types)
