"""Draws of products, attention, recurrent layers, quantised tensors and transforms."""

import numpy as np

from tests.support.random_operators.draw import MICROSOFT, Array, Case, Draw, Maker


def _matmul(draw: Draw) -> Case:
    m, k, n = draw.several(3, 1, 5)
    outer = draw.shape(0, 2, 3)
    left, right = [*outer, m, k], [*outer, k, n]
    if draw.chance(0.4):
        right = right[draw.between(0, len(outer)) :]
    left, right = [
        [1 if i < len(s) - 2 and draw.chance(0.2) else v for i, v in enumerate(s)]
        for s in (left, right)
    ]
    if draw.chance(0.1):
        left = [k]
    if draw.chance(0.1):
        right = [k]
    kind = draw.pick("float32", "float32", "float64", "int32")
    kind = kind if draw.opset >= 9 else "float32"
    return draw.case(draw.numbers(left, kind), draw.numbers(right, kind), fixed=(1,))


def _gemm(draw: Draw) -> Case:
    m, k, n = draw.several(3, 1, 5)
    options = draw.given(
        {
            "alpha": draw.number(-2, 2),
            "beta": draw.number(-2, 2),
            "transA": draw.between(0, 1),
            "transB": draw.between(0, 1),
        }
    )
    a = [k, m] if options.get("transA") else [m, k]
    b = [n, k] if options.get("transB") else [k, n]
    shapes = [[m, n], [n], [m, 1], [1, n], [1], [1, 1]] + ([[]] if draw.opset >= 11 else [])
    more = [draw.floats(draw.pick(*shapes))] if draw.opset < 11 or draw.chance(0.7) else []
    kind = draw.pick("float32", "float32", "float64")
    arrays = [x.astype(kind) for x in (draw.floats(a), draw.floats(b), *more)]
    return draw.case(*arrays, fixed=(1, 2), attributes=options)


def _einsum(draw: Draw) -> Case:
    equation = draw.pick(
        "ij,jk->ik", "bij,bjk->bik", "ij->ji", "ij,ij->", "ii->i", "bij->bi", "ij,kj->ik",
        "...ij,jk->...ik", "i,j->ij", "bhqd,bhkd->bhqk", "ij, jk -> k", "ij,jk", "abc->cab",
        "ii", "b...i,b...i->b...",
    )  # fmt: skip
    sizes: dict[str, int] = {}
    dots = draw.shape(0, 2, 3)
    arrays = []
    for term in equation.replace(" ", "").split("->")[0].split(","):
        shape: list[int] = []
        for letter in term.replace("...", "."):
            shape += dots if letter == "." else [sizes.setdefault(letter, draw.between(1, 4))]
        arrays.append(draw.floats(shape))
    return draw.case(*arrays, fixed=(1,), attributes={"equation": equation})


def _det(draw: Draw) -> Case:
    n = draw.between(1, 3)
    return draw.case(draw.floats([*draw.shape(0, 2, 3), n, n]))


def _integer(draw: Draw) -> Case:
    m, k, n = draw.several(3, 1, 5)
    kind = draw.pick("uint8", "int8")
    low = 0 if kind == "uint8" else -9
    outer = draw.shape(0, 1, 3)
    a, b = draw.integers([*outer, m, k], low, 9, kind), draw.integers([k, n], 0, 9, "uint8")
    more = [np.array(draw.between(0, 5), kind), draw.integers(draw.pick([], [n]), 0, 5, "uint8")]
    return draw.case(a, b, *more[: draw.between(0, 2)], fixed=(1, 2, 3))


def _quantised_product(draw: Draw) -> Case:
    m, k, n = draw.several(3, 1, 5)
    kind = draw.pick("uint8", "int8")
    low = 0 if kind == "uint8" else -50
    arrays: list[Array] = []
    for shape, scale in (([m, k], 0.03), ([k, n], 0.02)):
        arrays += [draw.integers(shape, low, 50, kind)]
        arrays += [np.array(scale, np.float32), np.array(draw.between(0, 5), kind)]
    arrays += [np.array(0.011, np.float32), np.array(draw.between(0, 5), kind)]
    return draw.case(*arrays, fixed=(1, 2, 3, 4, 5, 6, 7))


def _spread(draw: Draw, shape: list[int]) -> tuple[list[int], dict[str, object]]:
    """Return the shape of a scale and the attributes that say along what it runs."""
    if draw.opset >= 21 and draw.chance(0.3):
        axis = draw.axis(len(shape))
        block = draw.between(1, 3)
        counts = list(shape)
        counts[axis] = -(-shape[axis] // block)
        return counts, {"axis": axis, "block_size": block}
    if draw.opset >= 13 and draw.chance():
        axis = draw.axis(len(shape))
        return [shape[axis]], {"axis": axis}
    return [], {}


def _scales(draw: Draw, shape: list[int]) -> Array:
    return ((draw.rng.random(tuple(shape)) + 0.2) / 10).astype(np.float32)


def _quantise(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    counts, options = _spread(draw, shape)
    kind = draw.pick("uint8", "int8", *(("int16", "uint16") if draw.opset >= 21 else ()))
    more = [draw.integers(counts, 0, 9, kind)] if draw.chance(0.7) else []
    return draw.case(
        draw.floats(shape), _scales(draw, counts), *more, fixed=(1, 2), attributes=options
    )


def _dequantise(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    counts, options = _spread(draw, shape)
    kind = draw.pick("uint8", "int8", "int32")
    high = 5 if kind != "int32" else 0
    more = [draw.integers(counts, 0, high, kind)] if draw.chance(0.7) else []
    x = draw.integers(shape, 0 if kind == "uint8" else -99, 99, kind)
    return draw.case(x, _scales(draw, counts), *more, fixed=(1, 2), attributes=options)


def _attention(draw: Draw) -> Case:
    b, heads, shared = draw.between(1, 2), draw.pick(2, 4), draw.pick(1, 2)
    keys, queries, past = draw.between(1, 5), draw.between(1, 5), draw.pick(0, 0, 2)
    d, dv = 2 * draw.between(1, 2), draw.between(1, 3)
    inner = heads // shared
    options = draw.given(
        {
            "is_causal": draw.between(0, 1),
            "scale": draw.number(0.2, 1),
            "softcap": draw.pick(0.0, 2.0),
        },
        0.4,
    )
    q, k, v = (
        draw.floats([b, h, t, w])
        for h, t, w in ((heads, queries, d), (inner, keys, d), (inner, keys, dv))
    )
    if draw.chance() and not past:
        options |= {"q_num_heads": heads, "kv_num_heads": inner}
        q, k, v = (x.transpose(0, 2, 1, 3).reshape(b, x.shape[2], -1) for x in (q, k, v))
    more: list[Array | None] = []
    if draw.chance():
        shape = draw.pick([queries, keys + past], [b, 1, queries, keys + past])
        mask = (
            draw.floats(shape) if draw.chance() else draw.truths(shape) | (np.eye(*shape[-2:]) > 0)
        )
        more.append(mask)
    if past:
        more = (more or [None]) + [
            draw.floats([b, inner, past, d]), draw.floats([b, inner, past, dv])
        ]  # fmt: skip
    return draw.case(q, k, v, *more, outputs=3 if past else 1, attributes=options)


def _rotary(draw: Draw) -> Case:
    b, heads, t, width = draw.between(1, 2), draw.between(1, 3), draw.between(1, 4), 4
    options = draw.given({"interleaved": draw.between(0, 1)})
    part = draw.pick(0, 0, 2)
    if part:
        options["rotary_embedding_dim"] = part
    x = draw.floats([b, heads, t, width])
    if draw.chance():
        x = x.transpose(0, 2, 1, 3).reshape(b, t, heads * width)
        options["num_heads"] = heads
    half = (part or width) // 2
    if draw.chance():
        angles = draw.rng.random((6, half))
        where = [draw.integers([b, t], 0, 5)]
    else:
        angles, where = draw.rng.random((b, t, half)), []
    tables = [f(angles).astype(np.float32) for f in (np.cos, np.sin)]
    return draw.case(x, *tables, *where, fixed=(1, 2), attributes=options)


def _recurrent(draw: Draw) -> Case:
    gates, states = {"LSTM": (4, 2), "GRU": (3, 1), "RNN": (1, 1)}[draw.op_type]
    t, b, width, size = (draw.between(1, 4) for _ in range(4))
    direction = draw.pick("forward", "reverse", "bidirectional")
    d = 2 if direction == "bidirectional" else 1
    options: dict[str, object] = {"hidden_size": size}
    options |= draw.given({"direction": direction}, 1.0 if direction != "forward" else 0.5)
    batch_first = draw.opset >= 14 and draw.chance(0.1)
    if batch_first:
        options["layout"] = 1
    if draw.chance(0.3):
        options["clip"] = draw.number(0.2, 2)
    if draw.op_type == "GRU":
        options |= draw.given({"linear_before_reset": draw.between(0, 1)})
    if draw.op_type == "LSTM":
        options |= draw.given({"input_forget": draw.between(0, 1)}, 0.3)
    if draw.chance(0.3):
        plain = ("Sigmoid", "Tanh", "Relu", "Softsign", "HardSigmoid", "Elu", "LeakyRelu")
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[draw.op_type]
        options["activations"] = [draw.pick(*plain) for _ in range(count)] * d
    more: list[Array | None] = [draw.floats([d, 2 * gates * size]) if draw.chance(0.7) else None]
    more.append(draw.integers([b], 1, t, "int32") if draw.chance(0.4) else None)
    begin = [b, d, size] if batch_first else [d, b, size]
    more += [draw.floats(begin) if draw.chance() else None for _ in range(states)]
    if draw.op_type == "LSTM":
        more.append(draw.floats([d, 3 * size]) if draw.chance(0.3) else None)
    while more and more[-1] is None:
        more.pop()
    return draw.case(
        draw.floats([b, t, width] if batch_first else [t, b, width]),
        draw.floats([d, gates * size, width]),
        draw.floats([d, gates * size, size]),
        *more,
        outputs=states + 1,
        fixed=(1, 2, 3, 7),
        attributes=options,
    )


def _fourier(draw: Draw) -> Case:
    shape = [draw.between(1, 3), draw.between(2, 6), draw.between(2, 5), draw.pick(1, 2)]
    shape = shape[draw.pick(0, 1) :] if draw.opset >= 20 else shape
    axis = draw.between(1, len(shape) - 2) if len(shape) > 3 else draw.between(0, len(shape) - 2)
    options = draw.given({"inverse": draw.between(0, 1)})
    if shape[-1] == 1 and not options.get("inverse") and draw.chance():
        options["onesided"] = 1
    length = np.array(draw.between(2, 7), np.int64) if draw.chance(0.4) else None
    if draw.opset < 20:
        more = [length] if length is not None else []
        return draw.case(draw.floats(shape), *more, fixed=(1,), attributes=options | {"axis": axis})
    where = np.array(axis - draw.pick(0, len(shape)), np.int64)
    return draw.case(draw.floats(shape), length, where, fixed=(1, 2), attributes=options)


def _short_fourier(draw: Draw) -> Case:
    size = draw.between(2, 6)
    length = size + draw.between(0, 9)
    x = draw.floats([draw.between(1, 2), length, 1])
    step = np.array(draw.between(1, 3), np.int64)
    options = draw.given({"onesided": draw.between(0, 1)})
    window = draw.floats([size]) if draw.chance() else None
    frame = np.array(size, np.int64) if window is None or draw.chance() else None
    more = [window, frame] if frame is not None else [window]
    return draw.case(x, step, *more, fixed=(1, 2, 3), attributes=options)


def _window(draw: Draw) -> Case:
    options = draw.given({"periodic": draw.between(0, 1)})
    return draw.case(np.array(draw.between(2, 9), np.int64), attributes=options)


def _mel(draw: Draw) -> Case:
    arrays = [np.array(draw.between(2, 6), np.int64), np.array(draw.pick(16, 32), np.int64)]
    arrays += [np.array(8192, np.int64)]
    arrays += [np.array(v, np.float32) for v in (draw.pick(0.0, 100.0), draw.pick(4096.0, 3000.0))]
    return draw.case(*arrays, fixed=(1, 2, 3, 4))


def _gated(draw: Draw) -> Case:
    shape = draw.shape(1, 3)
    more = [draw.floats(shape[-1:])] if draw.op_type == "BiasGelu" else []
    if draw.op_type == "FastGelu" and draw.chance():
        more = [draw.floats(shape[-1:])]
    options = draw.given({"alpha": draw.number(1, 2)}) if draw.op_type == "QuickGelu" else {}
    return draw.case(draw.floats(shape), *more, domain=MICROSOFT, fixed=(1,), attributes=options)


def _skip(draw: Draw) -> Case:
    shape = [draw.between(1, 3), draw.between(1, 4), draw.between(2, 6)]
    last = shape[-1:]
    more: list[Array | None] = []
    if draw.op_type == "SkipLayerNormalization" and draw.chance():
        more.append(draw.floats(last))
        if draw.chance():
            more.append(draw.floats(last))
    if draw.op_type == "SkipSimplifiedLayerNormalization" and draw.chance():
        more.append(draw.floats(last))
    options = draw.given({"epsilon": draw.number(1e-3, 0.1)})
    return draw.case(
        draw.floats(shape),
        draw.floats(shape),
        draw.floats(last),
        *more,
        domain=MICROSOFT,
        fixed=(2, 3, 4),
        attributes=options,
    )


def _fused_product(draw: Draw) -> Case:
    m, k, n = draw.several(3, 1, 5)
    options = draw.given(
        {"alpha": draw.number(0.3, 2), "transA": draw.between(0, 1), "transB": draw.between(0, 1)}
    )
    outer = draw.shape(0, 2, 3)
    a = [*outer, *([k, m] if options.get("transA") else [m, k])]
    b = [*outer, *([n, k] if options.get("transB") else [k, n])]
    return draw.case(
        draw.floats(a), draw.floats(b), domain=MICROSOFT, fixed=(1,), attributes=options
    )


MAKERS: dict[str, Maker] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Det": _det,
    "MatMulInteger": _integer,
    "QLinearMatMul": _quantised_product,
    "QuantizeLinear": _quantise,
    "DequantizeLinear": _dequantise,
    "DynamicQuantizeLinear": lambda draw: draw.case(draw.floats(draw.shape(1, 3)), outputs=3),
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "DFT": _fourier,
    "STFT": _short_fourier,
    **dict.fromkeys(("HannWindow", "HammingWindow", "BlackmanWindow"), _window),
    "MelWeightMatrix": _mel,
}
FUSED: dict[str, Maker] = {
    **dict.fromkeys(("BiasGelu", "FastGelu", "Gelu", "QuickGelu"), _gated),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip),
    "FusedMatMul": _fused_product,
}
