"""Draws of reductions, running sums, normalisations and losses."""

import numpy as np

from tests.support.random_operators.draw import Case, Draw, Maker


def _reduce(draw: Draw) -> Case:
    shape = draw.shape(0 if draw.opset >= 18 else 1, 5)
    kinds = ["float32", "float32", "float64"]
    if draw.op_type in ("ReduceMax", "ReduceMin") and draw.opset >= 12:
        kinds += ["int32", "int64", "uint8", "int8"] + (["bool"] if draw.opset >= 20 else [])
    elif draw.op_type not in ("ReduceLogSum", "ReduceLogSumExp"):
        kinds += ["int32", "int64"] if draw.op_type in ("ReduceSum", "ReduceProd") else ["int32"]
    x = draw.numbers(shape, draw.pick(*kinds))
    if draw.op_type == "ReduceProd":  # far from what an integer holds
        x = np.clip(x, -2, 2) if np.prod(shape) < 25 else np.sign(x)
    if draw.op_type == "ReduceLogSum":
        x = np.abs(x) + np.asarray(0.1, x.dtype)
    options = draw.given({"keepdims": draw.between(0, 1)})
    axes = draw.axes(len(shape), 1) if shape and draw.chance(0.8) else None
    if draw.opset >= 18 or (draw.op_type == "ReduceSum" and draw.opset >= 13):
        options |= draw.given({"noop_with_empty_axes": draw.between(0, 1)}, 0.3)
        if axes is None:
            empty = draw.chance(0.3)
            return draw.case(
                x, *([np.zeros(0, np.int64)] if empty else []), fixed=(1,), attributes=options
            )
        return draw.case(x, np.array(axes, np.int64), fixed=(1,), attributes=options)
    return draw.case(x, attributes=options if axes is None else {**options, "axes": axes})


def _arg(draw: Draw) -> Case:
    shape = draw.shape(1, 5)
    options = {"axis": draw.axis(len(shape)), "keepdims": draw.between(0, 1)}
    if draw.opset >= 12:
        options["select_last_index"] = draw.between(0, 1)
    kind = draw.pick("float32", "float32", "int32", "uint8", "int8")
    return draw.case(draw.numbers(shape, kind), attributes=draw.given(options))


def _running(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    kind = draw.pick("float32", "float64", "int32", "int64")
    axis = np.array(draw.axis(len(shape)), draw.pick("int32", "int64"))
    options = {"exclusive": draw.between(0, 1), "reverse": draw.between(0, 1)}
    return draw.case(draw.numbers(shape, kind), axis, fixed=(1,), attributes=draw.given(options))


def _soft(draw: Draw) -> Case:
    shape = draw.shape(1, 5)
    kind = draw.pick("float32", "float32", "float64")
    axis = draw.axis(len(shape))
    if draw.opset < 11:
        axis %= len(shape)
    return draw.case(draw.floats(shape, kind), attributes=draw.given({"axis": axis}, 0.8))


def _channels(draw: Draw, low: int = 3, high: int = 5) -> list[int]:
    return [draw.between(1, 3), draw.between(1, 6), *draw.shape(low - 2, high - 2)]


def _batch(draw: Draw) -> Case:
    shape = _channels(draw, 2)
    c = shape[1]
    options = draw.given({"epsilon": draw.number(1e-5, 0.1), "momentum": draw.number(0.1, 0.9)})
    return draw.case(
        draw.floats(shape),
        draw.floats([c]),
        draw.floats([c]),
        draw.floats([c]),
        np.abs(draw.floats([c])) + np.float32(0.1),
        fixed=(1, 2, 3, 4),
        attributes=options,
    )


def _instance(draw: Draw) -> Case:
    shape = _channels(draw)
    options = draw.given({"epsilon": draw.number(1e-3, 0.1)})
    return draw.case(
        draw.floats(shape),
        draw.floats([shape[1]]),
        draw.floats([shape[1]]),
        fixed=(1, 2),
        attributes=options,
    )


def _layer(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    axis = draw.axis(len(shape))
    inner = shape[axis:] if axis < 0 else shape[axis % len(shape) :]
    options = draw.given({"axis": axis}, 1.0) | draw.given({"epsilon": draw.number(1e-3, 0.1)})
    kind = draw.pick("float32", "float32", "float64", "float16")
    more = [draw.floats(inner, kind)] if draw.op_type == "LayerNormalization" else []
    more = more if draw.chance(0.7) else []
    return draw.case(
        draw.floats(shape, kind), draw.floats(inner, kind), *more, fixed=(1, 2), attributes=options
    )


def _group(draw: Draw) -> Case:
    shape = _channels(draw)
    groups = draw.pick(1, 2, 3)
    shape[1] = groups * draw.between(1, 3)
    count = groups if draw.opset < 21 else shape[1]
    options = {"num_groups": groups} | draw.given({"epsilon": draw.number(1e-3, 0.1)})
    return draw.case(
        draw.floats(shape),
        draw.floats([count]),
        draw.floats([count]),
        fixed=(1, 2),
        attributes=options,
    )


def _lrn(draw: Draw) -> Case:
    options = {"size": draw.pick(1, 3, 5)} | draw.given(
        {"alpha": draw.number(1e-3, 1), "beta": draw.number(0.2, 1), "bias": draw.number(0.5, 2)}
    )
    shape = [draw.between(1, 3), draw.between(1, 6), draw.between(1, 4), draw.between(1, 4)]
    return draw.case(draw.floats(shape), attributes=options)


def _lp(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    options = {"axis": draw.axis(len(shape)), "p": draw.pick(1, 2)}
    return draw.case(draw.floats(shape), attributes=draw.given(options))


def _mean_variance(draw: Draw) -> Case:
    shape = draw.several(4, 2, 5)
    axes = sorted(axis % 4 for axis in draw.axes(4, 2))  # few numbers may be nearly equal
    x = draw.rng.standard_normal(tuple(shape)).astype(np.float32)
    return draw.case(x, attributes=draw.given({"axes": axes}))


def _dropout(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    outputs = draw.pick(1, 1, 2)
    if draw.opset < 12:
        options = draw.given({"ratio": draw.number(0.1, 0.9)})
        return draw.case(draw.floats(shape), outputs=outputs, attributes=options)
    ratio = [np.array(draw.number(0.1, 0.9), np.float32)] if draw.chance() else []
    return draw.case(draw.floats(shape), *ratio, outputs=outputs, fixed=(1,))


def _criterion(draw: Draw) -> Case:
    shape = [draw.between(1, 4), draw.between(2, 5), *draw.shape(0, 2)]
    options = draw.given(
        {"reduction": draw.pick("none", "sum", "mean"), "ignore_index": draw.pick(0, 1, -100)}
    )
    target = draw.integers([shape[0], *shape[2:]], 0, shape[1] - 1, draw.pick("int32", "int64"))
    weight = [np.abs(draw.floats([shape[1]])) + np.float32(0.1)] if draw.chance() else []
    many = draw.pick(1, 2) if draw.op_type == "SoftmaxCrossEntropyLoss" else 1
    return draw.case(draw.floats(shape), target, *weight, outputs=many, attributes=options)


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(
        (
            "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
            "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
        ),
        _reduce,
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    "CumSum": _running,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _soft),
    "BatchNormalization": _batch,
    "InstanceNormalization": _instance,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer),
    "GroupNormalization": _group,
    "LRN": _lrn,
    "LpNormalization": _lp,
    "MeanVarianceNormalization": _mean_variance,
    "Dropout": _dropout,
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), _criterion),
}  # fmt: skip
