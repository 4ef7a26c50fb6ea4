"""Draws of operators that gather, scatter, sort and choose elements."""

import numpy as np

from tests.support.random_operators.draw import Array, Case, Draw, Maker


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _any(draw: Draw, shape: list[int], *kinds: str) -> Array:
    return draw.numbers(shape, draw.pick(*kinds))


def _indices(draw: Draw, shape: list[int], length: int) -> Array:
    low = -length if draw.opset >= 11 else 0
    return draw.integers(shape, low, length - 1, draw.pick("int32", "int64"))


def _gather(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    axis = draw.axis(len(shape))
    x = _any(draw, shape, "float32", "int64", "bool", "float16")
    where = _indices(draw, draw.shape(0, 3, 4), shape[axis])
    return draw.case(x, where, fixed=(1,), attributes=draw.given({"axis": axis}, 1.0))


def _gather_elements(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    axis = draw.axis(len(shape))
    size = [draw.between(1, s) for s in shape]
    size[axis] = draw.between(1, 6)
    where = _indices(draw, size, shape[axis])
    return draw.case(
        _any(draw, shape, "float32", "int64"), where, fixed=(1,), attributes={"axis": axis}
    )


def _gather_nd(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    shared = draw.between(0, len(shape) - 1) if draw.opset >= 12 and draw.chance(0.4) else 0
    depth = draw.between(1, len(shape) - shared)
    outer = shape[:shared] + draw.shape(0 if shared else 1, 2, 3)
    parts = [
        draw.integers([*outer, 1], -shape[shared + i], shape[shared + i] - 1) for i in range(depth)
    ]
    options = {"batch_dims": shared} if shared else {}
    return draw.case(
        _any(draw, shape, "float32", "int64"),
        np.concatenate(parts, -1),
        fixed=(1,),
        attributes=options,
    )


def _reduction(draw: Draw) -> dict[str, object]:
    choices = ["none"]
    if draw.opset >= 16:
        choices += ["add", "mul"]
    if draw.opset >= 18:
        choices += ["max", "min"]
    return draw.given({"reduction": draw.pick(*choices)}, 0.8 if draw.opset >= 16 else 0.0)


def _scatter(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    axis = draw.axis(len(shape)) if draw.opset >= 11 else draw.between(0, len(shape) - 1)
    size = [draw.between(1, s) for s in shape]
    options = {"axis": axis}
    if draw.op_type == "ScatterElements":
        options |= _reduction(draw)  # type: ignore[arg-type]
    length, along = shape[axis], axis % len(shape)
    if options.get("reduction", "none") == "none":  # of a repeated index either may be the last
        order = draw.rng.random([*size[:along], length, *size[along + 1 :]]).argsort(along)
        where = np.take(order, np.arange(size[along]), along)
    else:
        where = draw.integers(size, 0, length - 1)
    if draw.opset >= 11:
        where = np.where(draw.truths(size), where, where - length)
    kind = draw.pick("float32", "float32", "int64", "int32")
    where = where.astype(draw.pick("int32", "int64"))
    return draw.case(
        draw.numbers(shape, kind),
        where,
        draw.numbers(size, kind),
        fixed=(1,),
        attributes=options,
    )


def _scatter_nd(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    depth = draw.between(1, len(shape))
    options = _reduction(draw)
    total = int(np.prod(shape[:depth]))
    if options.get("reduction", "none") == "none":
        rows = draw.rng.permutation(total)[: draw.between(1, total)]
    else:
        rows = draw.rng.integers(0, total, draw.between(1, 6))
    where = np.stack(np.unravel_index(rows, shape[:depth]), -1).astype(np.int64)
    where = np.where(draw.truths(where.shape), where, where - np.array(shape[:depth]))
    kind = draw.pick("float32", "float32", "int64")
    return draw.case(
        draw.numbers(shape, kind),
        where,
        draw.numbers([len(rows), *shape[depth:]], kind),
        fixed=(1,),
        attributes=options,
    )


def _one_hot(draw: Draw) -> Case:
    shape, classes = draw.shape(0, 3), draw.between(1, 5)
    kind, number, value = draw.pick(  # what onnxruntime has kernels for
        ("int64", "int64", "float32"),
        ("int64", "int64", "int64"),
        ("int32", "int32", "float32"),
        ("float32", "float32", "float32"),
        ("int64", "float32", "int64"),
    )
    low = -classes - 1 if draw.opset >= 11 else 0
    depth = np.array(classes, number)
    depth = depth.reshape(1) if draw.chance(0.4) else depth
    options = draw.given({"axis": draw.axis(len(shape) + 1)})
    return draw.case(
        draw.integers(shape, low, classes, kind),
        depth,
        draw.numbers([2], value),
        fixed=(1, 2),
        attributes=options,
    )


def _top(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    axis = draw.axis(len(shape))
    along = -1
    options: dict[str, object] = {}
    if draw.chance(0.8):
        options, along = {"axis": axis}, axis
    if draw.opset >= 11:
        options |= draw.given({"largest": draw.between(0, 1), "sorted": 1})
    count = draw.between(1, shape[along])
    kind = draw.pick("float32", "float64", "int64", "int32") if draw.opset >= 11 else "float32"
    x = draw.numbers(shape, kind)
    if draw.opset < 10:
        return draw.case(x, outputs=2, attributes=options | {"k": count})
    return draw.case(x, _ints(count), outputs=2, fixed=(1,), attributes=options)


def _compress(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    x = _any(draw, shape, "float32", "int64")
    if draw.chance(0.3):
        return draw.case(x, draw.truths([draw.between(1, int(np.prod(shape)))]), fixed=(1,))
    axis = draw.axis(len(shape)) if draw.opset >= 11 else draw.between(0, len(shape) - 1)
    keep = draw.truths([draw.between(1, shape[axis])])
    return draw.case(x, keep, fixed=(1,), attributes={"axis": axis})


def _unique(draw: Draw) -> Case:
    shape = draw.shape(1, 3)
    options = draw.given({"axis": draw.axis(len(shape)), "sorted": draw.between(0, 1)})
    x = draw.integers(shape, 0, 2, draw.pick("float32", "int64", "int8"))
    return draw.case(x, outputs=4, attributes=options)


def _eye(draw: Draw) -> Case:
    shape = draw.several(2, 1, 5)
    options = draw.given({"k": draw.between(-5, 5), "dtype": draw.pick(1, 6, 7, 11)})
    return draw.case(_any(draw, shape, "float32", "int64", "int32"), attributes=options)


def _boxes(draw: Draw) -> Case:
    n, count, classes = draw.between(1, 2), draw.between(1, 8), draw.between(1, 3)
    corner = draw.rng.random((n, count, 2)) * 4
    boxes = np.concatenate([corner, corner + draw.rng.random((n, count, 2)) * 3], -1)
    if draw.chance(0.3):
        boxes = boxes[..., [2, 3, 0, 1]]
    options = draw.given({"center_point_box": draw.between(0, 1)})
    scores = draw.rng.random((n, classes, count)).astype(np.float32)
    more: list[Array] = [_ints(draw.between(0, 5))]
    if draw.chance(0.8):
        more.append(np.array([draw.number(0, 1)], np.float32))
        if draw.chance():
            more.append(np.array([draw.number(0, 0.8)], np.float32))
    return draw.case(boxes.astype(np.float32), scores, *more, fixed=(2, 3, 4), attributes=options)


def _cache(draw: Draw) -> Case:
    shape = [draw.between(1, 3), draw.between(1, 2), draw.between(3, 6), draw.between(1, 3)]
    mode = draw.pick("linear", "circular")
    length = draw.between(1, shape[2])
    update = [*shape[:2], length, shape[3]]
    most = shape[2] - (length if mode == "linear" else 1)
    more = [draw.integers([shape[0]], 0, most)] if draw.chance(0.7) else []
    return draw.case(
        draw.floats(shape), draw.floats(update), *more, attributes=draw.given({"mode": mode}, 1.0)
    )


MAKERS: dict[str, Maker] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Scatter": _scatter,
    "ScatterElements": _scatter,
    "ScatterND": _scatter_nd,
    "OneHot": _one_hot,
    "TopK": _top,
    "Compress": _compress,
    "Unique": _unique,
    "EyeLike": _eye,
    "NonZero": lambda draw: draw.case(_any(draw, draw.shape(1, 4), "float32", "int64", "bool")),
    "NonMaxSuppression": _boxes,
    "TensorScatter": _cache,
}
