"""Draws of convolutions, pools and images."""

import numpy as np

from tests.support.random_operators.draw import Array, Case, Draw, Maker


def _spatial(draw: Draw) -> tuple[int, list[int], list[int], list[int]]:
    """Return rank, kernel, strides and dilations."""
    rank = draw.pick(1, 2, 2, 2, 3)
    kernel = draw.several(rank, 1, 3)
    return rank, kernel, draw.several(rank, 1, 3), draw.several(rank, 1, 2)


def _padding(draw: Draw, rank: int, kernel: list[int]) -> dict[str, object]:
    auto = draw.pick(None, None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    options: dict[str, object] = {} if auto is None else {"auto_pad": auto}
    if auto in (None, "NOTSET") and draw.chance(0.7):
        options["pads"] = [draw.between(0, k - 1) for k in kernel * 2]
    return options


def _image(rank: int, kernel: list[int], dilations: list[int], draw: Draw) -> list[int]:
    return [(kernel[i] - 1) * dilations[i] + draw.between(1, 6) for i in range(rank)]


def _convolve(draw: Draw) -> Case:
    rank, kernel, strides, dilations = _spatial(draw)
    groups = draw.pick(1, 1, 2, 3)
    inner, outer = draw.between(1, 3), groups * draw.between(1, 3)
    options = draw.given(
        {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "group": groups}, 0.7
    )
    groups = groups if "group" in options else 1
    if "dilations" not in options:
        dilations = [1] * rank
    options |= _padding(draw, rank, kernel)
    if options.get("auto_pad") in ("SAME_UPPER", "SAME_LOWER"):
        options.pop("dilations", None)  # the standard says nothing of both
    x = draw.floats([draw.between(1, 3), inner * groups, *_image(rank, kernel, dilations, draw)])
    weight = draw.floats([outer, inner, *kernel])
    more = [draw.floats([outer])] if draw.chance() else []
    return draw.case(x, weight, *more, fixed=(1, 2), attributes=options)


def _deconvolve(draw: Draw) -> Case:
    rank, kernel, strides, dilations = _spatial(draw)
    groups = draw.pick(1, 1, 2, 3)
    inner, outer = draw.between(1, 3), draw.between(1, 3)
    options = draw.given(
        {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "group": groups}, 0.7
    )
    groups = groups if "group" in options else 1
    steps = strides if "strides" in options else [1] * rank
    spread = dilations if "dilations" in options else [1] * rank
    options |= _padding(draw, rank, kernel)
    if draw.chance(0.3):
        extra = [draw.between(0, max(s, d) - 1) for s, d in zip(steps, spread, strict=True)]
        options["output_padding"] = extra
    sizes = draw.several(rank, 2, 5)
    if draw.chance(0.4):
        more = options.get("output_padding") or [0] * rank
        natural = [
            (sizes[i] - 1) * steps[i] + (kernel[i] - 1) * spread[i] + 1 + more[i]  # type: ignore[index]
            for i in range(rank)
        ]
        options["output_shape"] = [max(1, n - draw.between(0, 3)) for n in natural]
        options.pop("pads", None)
    x = draw.floats([draw.between(1, 2), inner * groups, *sizes])
    weight = draw.floats([inner * groups, outer, *kernel])
    bias = [draw.floats([outer * groups])] if draw.chance() else []
    return draw.case(x, weight, *bias, fixed=(1, 2), attributes=options)


def _integer(draw: Draw) -> Case:
    case = _convolve(draw)
    kind = draw.pick("uint8", "int8")
    x = draw.integers(case.inputs[0].shape, 0 if kind == "uint8" else -9, 9, kind)  # type: ignore[union-attr]
    w = draw.integers(case.inputs[1].shape, 0, 9, "uint8")  # type: ignore[union-attr]
    more = [np.array(draw.between(0, 5), kind), np.array(draw.between(0, 5), "uint8")]
    more = more[: draw.between(0, 2)]
    return draw.case(x, w, *more, fixed=(1, 2, 3), attributes=case.attributes)


def _quantised(draw: Draw) -> Case:
    case = _convolve(draw)
    kind = draw.pick("uint8", "int8")
    low = 0 if kind == "uint8" else -50
    shape, weights = case.inputs[0].shape, case.inputs[1].shape  # type: ignore[union-attr]
    count = weights[0] if draw.chance() else 1
    scale = (draw.rng.random(count).astype(np.float32) + np.float32(0.5)) / 50
    scale = scale if count > 1 else scale.reshape(())
    arrays: list[Array] = [
        draw.integers(shape, low, 50, kind),
        np.array(0.03, np.float32),
        np.array(draw.between(0, 5), kind),
        draw.integers(weights, low, 50, kind),
        scale,
        np.zeros(scale.shape, kind),
        np.array(0.07, np.float32),
        np.array(draw.between(0, 5), kind),
    ]
    if draw.chance():
        arrays.append(draw.integers([weights[0]], -90, 90, "int32"))
    return draw.case(*arrays, fixed=range(1, 9), attributes=case.attributes)


def _pool(draw: Draw) -> Case:
    rank, kernel, strides, dilations = _spatial(draw)
    options = {"kernel_shape": kernel} | draw.given({"strides": strides}, 0.7)
    options |= _padding(draw, rank, kernel)  # type: ignore[arg-type]
    may_dilate = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[draw.op_type]
    spread = [1] * rank
    if draw.opset >= may_dilate and str(options.get("auto_pad"))[:4] != "SAME":
        if draw.chance(0.4):
            options["dilations"] = spread = dilations
        if draw.chance(0.4):
            options["ceil_mode"] = draw.between(0, 1)  # type: ignore[assignment]
    if draw.op_type == "AveragePool":
        options |= draw.given({"count_include_pad": draw.between(0, 1)})  # type: ignore[arg-type]
    if draw.op_type == "LpPool":
        options |= draw.given({"p": draw.between(1, 3)})  # type: ignore[arg-type]
    outputs = 1
    if draw.op_type == "MaxPool" and draw.opset >= 8 and draw.chance(0.3):
        outputs = 2
        options |= draw.given({"storage_order": draw.between(0, 1)})  # type: ignore[arg-type]
    shape = [draw.between(1, 2), draw.between(1, 3), *_image(rank, kernel, spread, draw)]
    kind = "float32"
    if draw.op_type == "MaxPool" and draw.opset >= 12 and draw.chance(0.2):
        kind = draw.pick("int8", "uint8")
    return draw.case(draw.numbers(shape, kind), outputs=outputs, attributes=options)


def _global(draw: Draw) -> Case:
    shape = [draw.between(1, 3), draw.between(1, 4), *draw.shape(1, 3)]
    options = draw.given({"p": draw.between(1, 3)}) if draw.op_type == "GlobalLpPool" else {}
    return draw.case(draw.floats(shape), attributes=options)


def _unpool(draw: Draw) -> Case:
    h, w = draw.between(1, 3), draw.between(1, 3)
    n, c = draw.between(1, 2), draw.between(1, 2)
    plane = np.arange(n * c).reshape(n, c, 1, 1) * (4 * h * w)
    rows = 2 * np.arange(h)[:, None] + draw.integers([n, c, h, w], 0, 1)
    columns = 2 * np.arange(w)[None] + draw.integers([n, c, h, w], 0, 1)
    where = (plane + rows * 2 * w + columns).astype(np.int64)
    options = {"kernel_shape": [2, 2], "strides": [2, 2]}
    return draw.case(draw.floats([n, c, h, w]), where, attributes=options)


def _deform(draw: Draw) -> Case:
    groups, deform = draw.pick(1, 2), draw.pick(1, 2)
    inner, outer = 2 * draw.between(1, 2), groups * draw.between(1, 2)
    kernel, strides = draw.several(2, 1, 3), draw.several(2, 1, 2)
    dilations, pads = draw.several(2, 1, 2), draw.several(4, 0, 2)
    sizes = _image(2, kernel, dilations, draw)
    out = [
        (sizes[i] + pads[i] + pads[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i in range(2)
    ]
    n, taps = draw.between(1, 2), kernel[0] * kernel[1]
    arrays = [
        draw.floats([n, inner, *sizes]),
        draw.floats([outer, inner // groups, *kernel]),
        (draw.rng.standard_normal((n, 2 * deform * taps, *out)) * 1.3).astype(np.float32),
    ]
    more: list[Array | None] = []
    if draw.chance():
        more.append(draw.floats([outer]))
        if draw.chance():
            more.append(draw.floats([n, deform * taps, *out]))
    options = {
        "kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads,
        "group": groups, "offset_group": deform,
    }  # fmt: skip
    return draw.case(*arrays, *more, fixed=(1,), attributes=options)


def _columns(draw: Draw) -> Case:
    kernel, strides = draw.several(2, 1, 3), draw.several(2, 1, 2)
    dilations, pads = draw.several(2, 1, 2), draw.several(4, 0, 1)
    sizes = _image(2, kernel, dilations, draw)
    blocks = [
        (sizes[i] + pads[i] + pads[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i in range(2)
    ]
    shape = [draw.between(1, 2), draw.between(1, 2) * kernel[0] * kernel[1], blocks[0] * blocks[1]]
    options = {"strides": strides, "dilations": dilations, "pads": pads}
    return draw.case(
        draw.floats(shape),
        np.array(sizes, np.int64),
        np.array(kernel, np.int64),
        fixed=(1, 2),
        attributes=options,
    )


_WHERE = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _resize(draw: Draw) -> Case:
    mode = draw.pick("nearest", "linear", "cubic" if draw.opset >= 11 else "nearest")
    rank = draw.pick(4, 4, 4, 3) if mode != "nearest" else draw.pick(2, 3, 4, 5)
    if mode == "cubic":
        rank = 4
    shape = draw.several(rank, 1, 7)
    live = min(rank, 2 if mode != "linear" or rank > 3 else 1)
    factors = [1.0] * (rank - live)
    factors += [draw.pick(0.5, 0.6, 1.0, 1.5, 1.7, 2.0, 3.0, 2.5, 0.8) for _ in range(live)]
    scales = np.array(factors, np.float32)
    options: dict[str, object] = {"mode": mode}
    if draw.opset < 11:
        return draw.case(draw.floats(shape), scales, fixed=(1,), attributes=options)
    places = (
        *_WHERE,
        *(("half_pixel_symmetric",) if draw.opset >= 19 else ()),
        *(("tf_half_pixel_for_nn",) if draw.opset < 13 else ()),
    )
    options |= draw.given({"coordinate_transformation_mode": draw.pick(*places)}, 0.8)
    if mode == "nearest":
        options |= draw.given({"nearest_mode": draw.pick(*_NEAREST)}, 0.7)
    if mode == "cubic":
        options |= draw.given(
            {"cubic_coeff_a": draw.pick(-0.5, -0.75), "exclude_outside": draw.between(0, 1)}
        )
    if draw.opset >= 18 and mode != "nearest":
        options |= draw.given({"antialias": draw.between(0, 1)}, 0.3)
    nothing = np.zeros(0, np.float32)
    if draw.chance():
        roi = nothing if draw.opset < 13 else None
        x = draw.floats(shape)
        return draw.case(x, roi, scales, fixed=(1, 2), attributes=options)
    sizes = np.array([max(1, round(s * f)) for s, f in zip(shape, factors, strict=True)], np.int64)
    if draw.opset >= 18 and draw.chance(0.3):
        options["axes"] = list(range(rank - live, rank))
        sizes = sizes[rank - live :]
        options |= draw.given(
            {"keep_aspect_ratio_policy": draw.pick("stretch", "not_larger", "not_smaller")}
        )
    absent = (nothing, nothing) if draw.opset < 13 else (None, None)
    return draw.case(draw.floats(shape), *absent, sizes, fixed=(1, 2, 3), attributes=options)


def _upsample(draw: Draw) -> Case:
    mode = draw.pick("nearest", "linear")
    rank = draw.pick(2, 4) if mode == "nearest" else 4
    shape = draw.several(rank, 1, 6)
    factors = [1.0] * (rank - 2) + [draw.pick(1.0, 1.5, 2.0, 3.0, 2.5) for _ in range(2)]
    if draw.opset < 9:
        return draw.case(draw.floats(shape), attributes={"mode": mode, "scales": factors})
    scales = np.array(factors, np.float32)
    return draw.case(draw.floats(shape), scales, fixed=(1,), attributes={"mode": mode})


def _sample(draw: Draw) -> Case:
    rank = draw.pick(2, 2, 3) if draw.opset >= 20 else 2
    n, c = draw.between(1, 2), draw.between(1, 3)
    names = (
        ("linear", "nearest", "cubic") if draw.opset >= 20 else ("bilinear", "nearest", "bicubic")
    )
    mode = draw.pick(*names[: 2 if rank == 3 else 3])
    options = draw.given(
        {
            "mode": mode,
            "padding_mode": draw.pick("zeros", "border", "reflection"),
            "align_corners": draw.between(0, 1),
        }
    )
    x = draw.floats([n, c, *draw.several(rank, 2, 5)])
    grid = draw.rng.uniform(-1.4, 1.4, (n, *draw.several(rank, 1, 5), rank)).astype(np.float32)
    return draw.case(x, grid, attributes=options)


def _affine(draw: Draw) -> Case:
    rank = draw.pick(2, 3)
    n = draw.between(1, 2)
    size = np.array([n, draw.between(1, 3), *draw.several(rank, 1, 4)], np.int64)
    options = draw.given({"align_corners": draw.between(0, 1)})
    return draw.case(draw.floats([n, rank, rank + 1]), size, fixed=(1,), attributes=options)


def _align(draw: Draw) -> Case:
    n, c, h, w = draw.between(1, 2), draw.between(1, 3), draw.between(3, 8), draw.between(3, 8)
    count = draw.between(1, 4)
    corner = draw.rng.random((count, 2)) * 4
    rois = np.concatenate([corner, corner + draw.rng.random((count, 2)) * 5 + 0.3], 1)
    options: dict[str, object] = draw.given(
        {
            "mode": draw.pick("avg", "max"),
            "output_height": draw.between(1, 3),
            "output_width": draw.between(1, 3),
            "sampling_ratio": draw.between(0, 3),
            "spatial_scale": draw.pick(0.5, 1.0, 0.8),
        }
    )
    if draw.opset >= 16:
        where = draw.pick("half_pixel", "output_half_pixel")
        options |= draw.given({"coordinate_transformation_mode": where})
    return draw.case(
        draw.floats([n, c, h, w]),
        rois.astype(np.float32),
        draw.integers([count], 0, n - 1),
        attributes=options,
    )


MAKERS: dict[str, Maker] = {
    "Conv": _convolve,
    "ConvTranspose": _deconvolve,
    "ConvInteger": _integer,
    "QLinearConv": _quantised,
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global),
    "MaxUnpool": _unpool,
    "DeformConv": _deform,
    "Col2Im": _columns,
    "Resize": _resize,
    "Upsample": _upsample,
    "GridSample": _sample,
    "AffineGrid": _affine,
    "RoiAlign": _align,
}
