"""Inferred types as values of the model."""

from collections.abc import Sequence

import onnx

from mpsearch.graph.inference import Types, sizes
from mpsearch.graph.model import Value
from mpsearch.graph.reading import element_type


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
