"""Small values that are known in every probe: shape arithmetic, before it is folded."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from mpsearch.graph.folding.evaluate import ELEMENTWISE, MOVING, evaluate
from mpsearch.graph.folding.state import Draft, KnownValue, is_small
from mpsearch.graph.folding.types_of_outputs import sizes
from mpsearch.graph.onnx_file.constants import Array
from mpsearch.graph.onnx_file.read import element_type


def known_outputs(proto: onnx.NodeProto, version: int, draft: Draft) -> dict[str, KnownValue]:
    """Return the outputs whose elements are known in the probes and few."""
    if proto.domain not in ("", "ai.onnx"):
        return {}
    if proto.op_type in ("Shape", "Size"):
        return _known_shape(proto, draft)
    given = [draft.known_values.get(name) if name else None for name in proto.input]
    if not given or any(
        name and known is None for name, known in zip(proto.input, given, strict=True)
    ):
        return {}
    varying = any(known is not None and known.varies is not None for known in given)
    n_probes = draft.n_probes if varying else 1
    rows: list[list[Array] | None] = []
    for probe in range(n_probes):
        arrays = [None if known is None else known.at(probe) for known in given]
        missing = any(k is not None and a is None for k, a in zip(given, arrays, strict=True))
        if missing or not _makes_small(proto, probe, draft):
            rows.append(None)
            continue
        try:
            rows.append(evaluate(proto, version, arrays))
        except Exception:  # whatever a malformed node makes numpy raise: it is not folded
            rows.append(None)
    result = {}
    for index, name in enumerate(proto.output):
        column = [None if row is None else row[index] for row in rows]
        known = _joined(proto, version, column, given, varying)
        if name and known is not None:
            result[name] = known
    return result


def _makes_small(proto: onnx.NodeProto, probe: int, draft: Draft) -> bool:
    for name in proto.output:
        if not name:
            continue
        kind = draft.types[name][probe]
        shape = sizes(kind)
        if kind is None or shape is None or None in shape:
            return False
        code = kind.tensor_type.elem_type
        dtype = element_type(code, f"value {name!r}")
        if not is_small(dtype, prod(size or 0 for size in shape)):
            return False
    return True


def _joined(
    proto: onnx.NodeProto,
    version: int,
    column: Sequence[Array | None],
    given: Sequence[KnownValue | None],
    varying: bool,
) -> KnownValue | None:
    """Return one output's values in all probes, and which elements vary between them."""
    first = column[0]
    if first is None:
        return None
    if not varying:
        return KnownValue((first,))
    full = [array for array in column if array is not None]
    if any(array.shape != first.shape for array in full):
        return None
    varies = np.ones(first.shape, np.bool_)
    if len(full) == len(column) and proto.op_type in MOVING:
        varies = _moved(proto, version, given, first.shape)
    elif len(full) == len(column) and proto.op_type in ELEMENTWISE:
        varies = np.zeros(first.shape, np.bool_)
        for known in given:
            if known is not None and known.varies is not None:
                varies = varies | known.varies
    if not varies.any():
        return KnownValue((first,))
    return KnownValue(tuple(column), np.broadcast_to(varies, first.shape))


def _moved(
    proto: onnx.NodeProto, version: int, given: Sequence[KnownValue | None], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return where varying elements end up: the operator moves their marks as it moves them.

    An element is not fixed because it agrees in all probes: ``length > 1`` does, and still varies.
    """
    if proto.op_type == "Cast":
        known = given[0]
        return np.ones(shape, np.bool_) if known is None or known.varies is None else known.varies
    marks: list[Array | None] = []
    for index, known in enumerate(given):
        if known is None:
            marks.append(None)
        elif index == 0 or proto.op_type == "Concat":
            value = known.arrays[0]
            still = np.zeros(() if value is None else value.shape, np.int64)
            marks.append(still if known.varies is None else known.varies.astype(np.int64))
        elif known.varies is not None:  # where it moves to varies
            return np.ones(shape, np.bool_)
        else:
            marks.append(known.arrays[0])
    try:
        moved = evaluate(proto, version, marks)[0]
    except Exception:  # not understood: everything may vary
        return np.ones(shape, np.bool_)
    return moved != 0 if moved.shape == shape else np.ones(shape, np.bool_)


def _known_shape(proto: onnx.NodeProto, draft: Draft) -> dict[str, KnownValue]:
    types = draft.types.get(proto.input[0]) if proto.input else None
    if types is None:
        return {}
    rows: list[Array | None] = []
    for kind in types:
        shape = sizes(kind)
        if shape is None or None in shape:
            rows.append(None)
            continue
        dims = [size or 0 for size in shape]
        if proto.op_type == "Size":
            rows.append(np.array(prod(dims), np.int64))
        else:
            span = {a.name: a.i for a in proto.attribute}
            rows.append(np.array(dims[span.get("start", 0) : span.get("end", len(dims))], np.int64))
    first = rows[0]
    if first is None:
        return {}
    if any(row is not None and row.shape != first.shape for row in rows):
        return {}
    varies = np.zeros(first.shape, np.bool_)
    for row in rows:
        varies = varies | (np.True_ if row is None else row != first)
    if not varies.any():
        return {proto.output[0]: KnownValue((first,))}
    return {proto.output[0]: KnownValue(tuple(rows), varies)}
