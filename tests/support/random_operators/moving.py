"""Draws of operators that move, cut and join elements."""

import numpy as np

from tests.support.random_operators.draw import Array, Case, Draw, Maker, broadcastable

_KINDS = ("float32", "float32", "int64", "int32", "bool", "float16", "uint8")


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _any(draw: Draw, shape: list[int], *kinds: str) -> Array:
    return draw.numbers(shape, draw.pick(*(kinds or _KINDS)))


def _reshape(draw: Draw) -> Case:
    shape = draw.shape(0, 4)
    x = _any(draw, shape)
    sizes = [int(s) for s in draw.rng.permutation(shape)]
    if len(sizes) > 1 and draw.chance():
        sizes = [sizes[0] * sizes[1], *sizes[2:]]
    if sizes and draw.chance():
        sizes[draw.between(0, len(sizes) - 1)] = -1
    for i, size in enumerate(sizes[: len(shape)]):
        if size == shape[i] and draw.chance(0.4):
            sizes[i] = 0
    if draw.chance(0.2):
        sizes.insert(draw.between(0, len(sizes)), 1)
        sizes = [s if s != 0 else 1 for s in sizes] if -1 in sizes else sizes
    options = {"allowzero": 0} if draw.opset >= 14 and draw.chance(0.3) else {}
    return draw.case(x, np.array(sizes, np.int64), fixed=(1,), attributes=options)


def _transpose(draw: Draw) -> Case:
    shape = draw.shape(0, 5)
    order = [int(a) for a in draw.rng.permutation(len(shape))]
    return draw.case(_any(draw, shape), attributes=draw.given({"perm": order} if shape else {}))


def _concat(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    axis = draw.axis(len(shape)) if draw.opset >= 11 else draw.between(0, len(shape) - 1)
    kind = draw.pick("float32", "int64", "int32", "bool")
    arrays = []
    for _ in range(draw.between(1, 4)):
        shape[axis] = draw.between(0 if draw.chance(0.1) else 1, 4)
        arrays.append(draw.numbers(shape, kind))
    return draw.case(*arrays, attributes={"axis": axis})


def _split(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    axis = draw.axis(len(shape)) if draw.opset >= 11 else draw.between(0, len(shape) - 1)
    count = draw.between(1, 4)
    options = draw.given({"axis": axis}, 0.8)
    along = axis if options else 0
    if draw.chance():
        sizes = draw.several(count, 0 if draw.chance(0.2) else 1, 3)
        shape[along] = sum(sizes)
        x = _any(draw, shape, "float32", "int64", "int32")
        if draw.opset >= 13:
            return draw.case(
                x, np.array(sizes, np.int64), outputs=count, fixed=(1,), attributes=options
            )
        return draw.case(x, outputs=count, attributes=options | {"split": sizes})
    shape[along] = count * draw.between(1, 3)
    if draw.opset >= 18:
        options["num_outputs"] = count
        if draw.chance() and count > 1:  # the last part is smaller
            shape[along] -= draw.between(0, max(shape[along] // count - 1, 0))
    return draw.case(_any(draw, shape, "float32", "int64"), outputs=count, attributes=options)


def _slice(draw: Draw) -> Case:
    shape = draw.shape(1, 4, 6)
    axes = draw.axes(len(shape), 1)
    far = 2**62 if draw.chance(0.3) else 9
    starts = [draw.between(-8, 8) for _ in axes]
    ends = [draw.pick(draw.between(-8, 8), far, -far) for _ in axes]
    x = _any(draw, shape, "float32", "int64", "int32", "bool")
    if draw.opset < 10:
        options = {"starts": starts, "ends": ends, "axes": [a % len(shape) for a in axes]}
        return draw.case(draw.floats(shape), attributes=options)
    kind = "int64" if far > 9 else draw.pick("int32", "int64")
    more = [np.array(v, kind) for v in (starts, ends)]
    if draw.chance(0.8):
        more.append(np.array(axes, kind))
        if draw.chance():
            more.append(np.array([draw.pick(-3, -2, -1, 1, 2, 3) for _ in axes], kind))
    else:
        more = [m[: len(axes)] for m in more]
    return draw.case(x, *more, fixed=(1, 2, 3, 4))


def _squeeze(draw: Draw) -> Case:
    shape = [draw.pick(1, 1, 3, 4) for _ in range(draw.between(1, 5))]
    ones = [a for a, size in enumerate(shape) if size == 1]
    negative = draw.opset >= 11
    axes = [a - len(shape) if negative and draw.chance(0.3) else a for a in ones if draw.chance()]
    x = _any(draw, shape)
    if not axes or draw.chance(0.2):
        return draw.case(x)
    if draw.opset >= 13:
        return draw.case(x, np.array(axes, np.int64), fixed=(1,))
    return draw.case(x, attributes={"axes": axes})


def _unsqueeze(draw: Draw) -> Case:
    shape = draw.shape(0, 3)
    count = draw.between(1, 3)
    rank = len(shape) + count
    axes = [int(a) for a in draw.rng.permutation(rank)[:count]]
    negative = 0.3 if draw.opset >= 11 else 0.0
    axes = [a - rank if draw.chance(negative) else a for a in axes]
    if draw.opset >= 13:
        return draw.case(_any(draw, shape), np.array(axes, np.int64), fixed=(1,))
    return draw.case(_any(draw, shape), attributes={"axes": sorted(axes)})


def _expand(draw: Draw) -> Case:
    shape = draw.shape(0, 4)
    small = broadcastable(draw, shape)
    wanted = [1 if draw.chance(0.2) else size for size in shape]
    return draw.case(
        _any(draw, small, "float32", "int64", "int32", "bool"),
        np.array(wanted, np.int64),
        fixed=(1,),
    )


def _tile(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    repeats = draw.several(len(shape), 0 if draw.chance(0.1) else 1, 3)
    kind = ("float32", "int64", "int32", "bool")
    return draw.case(_any(draw, shape, *kind), np.array(repeats, np.int64), fixed=(1,))


def _flatten(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    low = -len(shape) if draw.opset >= 11 else 0
    options = draw.given({"axis": draw.between(low, len(shape))}, 0.8)
    return draw.case(_any(draw, shape, "float32", "int64"), attributes=options)


def _shape_of(draw: Draw) -> Case:
    shape = draw.shape(0, 4)
    options = {"start": draw.between(-5, 5), "end": draw.between(-5, 5)}
    return draw.case(_any(draw, shape), attributes=draw.given(options) if draw.opset >= 15 else {})


def _filled(draw: Draw) -> Case:
    value = draw.pick(None, np.array([2.5], np.float32), _ints(-3), np.array([True]))
    options = {} if value is None else {"value": _proto(value)}
    shape = draw.shape(0, 3, 4, 0 if draw.chance(0.1) else 1)
    return draw.case(np.array(shape, np.int64), attributes=options)


def _proto(array: Array) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(array)


def _range(draw: Draw) -> Case:
    kind = draw.pick("float32", "int32", "int64", "int16", "float64")
    step = draw.pick(1, 2, 3, -1, -2) if "int" in kind else draw.pick(0.5, 0.3, -0.7, 1.25)
    start, stop = draw.between(-6, 6), draw.between(-6, 12)
    arrays = [np.array(v).astype(kind) for v in (start, stop, step)]
    return draw.case(*arrays, fixed=(1, 2))


def _pad(draw: Draw) -> Case:
    shape = draw.shape(1, 4, 6, 3)
    mode = draw.pick("constant", "constant", "edge", "reflect", *(["wrap"] * (draw.opset >= 19)))
    axes = draw.axes(len(shape), 1) if draw.opset >= 18 and draw.chance() else None
    count = len(shape) if axes is None else len(axes)
    low = -1 if mode in ("constant", "edge") and draw.chance(0.3) else 0
    amounts = draw.several(2 * count, low, 2)
    options: dict[str, object] = draw.given({"mode": mode}, 1.0 if mode != "constant" else 0.5)
    if draw.opset < 11:
        options |= draw.given({"value": draw.number(-2, 2)})
        return draw.case(draw.floats(shape), attributes=options | {"pads": amounts})
    kind = draw.pick("float32", "float32", "int32", "int64")
    if draw.opset >= 13 and draw.chance(0.1):
        kind = "bool"
    value = draw.numbers([], kind) if draw.chance() else None
    more: list[Array | None] = [np.array(amounts, np.int64), value]
    if axes is not None:
        more.append(np.array(axes, np.int64))
    elif value is None:
        more.pop()
    return draw.case(draw.numbers(shape, kind), *more, fixed=(1, 2, 3), attributes=options)


def _depth(draw: Draw) -> Case:
    size, c = draw.between(1, 3), draw.between(1, 3)
    h, w = draw.between(1, 3), draw.between(1, 3)
    if draw.op_type == "SpaceToDepth":
        shape = [draw.between(1, 2), c, h * size, w * size]
        return draw.case(draw.floats(shape), attributes={"blocksize": size})
    options: dict[str, object] = {"blocksize": size}
    if draw.opset >= 11:
        options |= draw.given({"mode": draw.pick("DCR", "CRD")})
    return draw.case(draw.floats([draw.between(1, 2), c * size**2, h, w]), attributes=options)


def _triangle(draw: Draw) -> Case:
    shape = draw.shape(2, 4)
    more = [np.array(draw.between(-4, 4), np.int64)] if draw.chance() else []
    options = draw.given({"upper": draw.between(0, 1)})
    kinds = ("float32", "int64", "bool", "float64")
    return draw.case(_any(draw, shape, *kinds), *more, fixed=(1,), attributes=options)


def _reverse(draw: Draw) -> Case:
    shape = draw.shape(2, 4)
    time = draw.between(0, 1)
    lengths = draw.integers([shape[1 - time]], 1, shape[time])
    options = {"time_axis": time, "batch_axis": 1 - time}
    options = options if time else draw.given({"time_axis": 0, "batch_axis": 1})
    return draw.case(draw.floats(shape), lengths, attributes=options)


def _crop(draw: Draw) -> Case:
    shape = draw.shape(1, 4, 6)
    axes = draw.axes(len(shape), 1) if draw.chance() else None
    count = len(shape) if axes is None else len(axes)
    wanted = np.array(draw.several(count, 1, 7), np.int64)
    options = {} if axes is None else {"axes": axes}
    return draw.case(draw.floats(shape), wanted, fixed=(1,), attributes=options)


MAKERS: dict[str, Maker] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": _tile,
    "Flatten": _flatten,
    "Shape": _shape_of,
    "Size": lambda draw: draw.case(_any(draw, draw.shape(0, 4))),
    "Identity": lambda draw: draw.case(_any(draw, draw.shape(0, 4))),
    "ConstantOfShape": _filled,
    "Range": _range,
    "Pad": _pad,
    "DepthToSpace": _depth,
    "SpaceToDepth": _depth,
    "Trilu": _triangle,
    "ReverseSequence": _reverse,
    "CenterCropPad": _crop,
}
