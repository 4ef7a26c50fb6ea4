"""onnxruntime's attention operators, spelt out, so that every product in them is a layer of its own.

Definitions: onnxruntime's ContribOperators.md (Attention, MultiHeadAttention, GroupQueryAttention).
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from mpsearch.graph.folding.decompose.builder import Writer

_HIDDEN = -10000.0  # what onnxruntime adds to scores that a mask hides


@dataclass(frozen=True, slots=True)
class _Heads:
    """Queries [B, N, S, D], keys and values [B, N, T, D], and what is added to the scores."""

    q: str
    k: str
    v: str
    bias: tuple[str, ...]
    scale: float
    softcap: float = 0.0


def fused_attention(write: Writer) -> bool:
    """Attention: projection to q, k, v together, then heads; without a past."""
    heads = int(write.attribute("num_heads", 0))
    known = {
        "num_heads", "scale", "unidirectional", "mask_filter_value", "past_present_share_buffer",
    }  # fmt: skip
    shape, weight = write.shape(write.input(0)), write.shape(write.input(1))
    if not _has_only(write, known, (0, 1, 2, 3, 5)) or write.output(1) or heads < 1:
        return False
    if weight is None or len(weight) != 2 or not weight[1] or weight[1] % (3 * heads):
        return False
    if shape is None or len(shape) != 3:
        return False
    head = weight[1] // 3 // heads
    dtype = write.dtype(write.input(0))
    mask = _padding(write, write.input(3), dtype)
    if mask is None:
        return False
    packed = write.call("MatMul", write.input(0), write.input(1), part="qkv")
    if write.input(2):
        packed = write.call("Add", packed, write.input(2))
    split = write.call("Reshape", packed, write.constant([0, 0, 3, heads, head]))
    turned = write.call("Transpose", split, perm=[2, 0, 3, 1, 4])
    parts = [
        write.call("Gather", turned, write.constant(np.int64(index)), axis=0) for index in range(3)
    ]
    biases = [*mask, *([write.input(5)] if write.input(5) else [])]
    if write.attribute("unidirectional", 0):
        causal = _causal(write, parts[0], parts[1], dtype)
        biases.append(causal)
    scale = write.attribute("scale", 0.0) or 1 / sqrt(head)
    q, k, v = parts
    _finish(write, _Heads(q, k, v, tuple(biases), scale), heads * head)
    return True


def multi_head_attention(write: Writer) -> bool:
    """MultiHeadAttention: separate or cached keys and values, with or without a past."""
    heads = int(write.attribute("num_heads", 0))
    known = {"num_heads", "scale", "unidirectional", "mask_filter_value"}
    shapes = [write.shape(write.input(index)) for index in range(3)]
    if heads < 1 or not _has_only(write, known, range(8)):
        return False
    if not all(write.input(i) for i in range(3)) or any(s is None for s in shapes):
        return False
    q_shape, k_shape, v_shape = (shape or () for shape in shapes)
    if len(q_shape) != 3 or len(k_shape) not in (3, 4) or len(v_shape) != len(k_shape):
        return False
    width, value_width = q_shape[2], v_shape[2] if len(v_shape) == 3 else None
    if not width or width % heads:
        return False
    head = width // heads
    value_head = (value_width or 0) // heads if len(v_shape) == 3 else (v_shape[3] or 0)
    if not value_head:
        return False
    dtype = write.dtype(write.input(0))
    mask = _padding(write, write.input(4), dtype)
    if mask is None:
        return False
    parts = [write.input(index) for index in range(3)]
    if write.input(3):
        cuts = (width, width, heads * value_head)
        biases = _cut(write, write.input(3), cuts)
        parts = [write.call("Add", x, b) for x, b in zip(parts, biases, strict=True)]
    q = _to_heads(write, parts[0], heads, head)
    k, v = parts[1], parts[2]
    if len(k_shape) == 3:
        k, v = _to_heads(write, k, heads, head), _to_heads(write, v, heads, value_head)
    if write.input(6) and write.input(7):
        k = write.call("Concat", write.input(6), k, axis=2)
        v = write.call("Concat", write.input(7), v, axis=2)
    for index, x in ((1, k), (2, v)):
        if write.output(index):
            write.call("Identity", x, into=write.output(index))
    added = [*mask, *([write.input(5)] if write.input(5) else [])]
    if write.attribute("unidirectional", 0):
        added.append(_causal(write, q, k, dtype))
    scale = write.attribute("scale", 0.0) or 1 / sqrt(head)
    _finish(write, _Heads(q, k, v, tuple(added), scale), heads * value_head)
    return True


def group_query_attention(write: Writer) -> bool:
    """GroupQueryAttention: causal, keys and values shared by groups of heads, with a past."""
    heads, kv_heads = (int(write.attribute(n, 0)) for n in ("num_heads", "kv_num_heads"))
    known = {
        "num_heads", "kv_num_heads", "scale", "softcap", "do_rotary", "rotary_interleaved",
        "local_window_size", "smooth_softmax", "qk_output", "k_quant_type", "v_quant_type",
        "kv_cache_bit_width",
    }  # fmt: skip
    shape = write.shape(write.input(0))
    plain = not any(write.attribute(n, 0) > 0 for n in ("smooth_softmax", "qk_output"))
    if not _has_only(write, known, range(9)) or not plain or shape is None or len(shape) != 3:
        return False
    if heads < 1 or kv_heads < 1 or heads % kv_heads or not shape[2]:
        return False
    if write.draft.version("") < 11:  # Range
        return False
    packed = not write.input(1)
    head = shape[2] // (heads + 2 * kv_heads if packed else heads)
    dtype = write.dtype(write.input(0))
    if packed:
        sizes = [heads * head, kv_heads * head, kv_heads * head]
        parts = [write.draft.fresh_value(f"{write.input(0)}.{letter}") for letter in "qkv"]
        if write.draft.version("") >= 13:
            write.call("Split", write.input(0), write.constant(sizes), into=parts, axis=2)
        else:
            write.call("Split", write.input(0), into=parts, axis=2, split=sizes)
    else:
        parts = [write.input(index) for index in range(3)]
    numbers = zip(parts, (heads, kv_heads, kv_heads), strict=True)
    q, k, v = (_to_heads(write, x, n, head) for x, n in numbers)
    # Row b has seen seqlens_k[b] + 1 - S tokens before this call: the position of its first query.
    length = _length(write, q)
    seen = write.call("Cast", write.input(5), to=7)
    rows = write.call("Reshape", seen, write.constant([-1, 1]))
    ends = write.call("Add", rows, write.constant([1]))
    start = write.call("Max", *_as_float(write, write.call("Sub", ends, length)))
    start = write.call("Cast", start, to=7)
    if write.attribute("do_rotary", 0):
        steps = write.call("Reshape", _count(write, length), write.constant([1, -1]))
        positions = write.call("Add", start, steps)
        turn = int(write.attribute("rotary_interleaved", 0))
        q, k = (
            write.call(
                "RotaryEmbedding", x, positions, write.input(7), write.input(8),
                domain="com.microsoft", interleaved=turn,
            )
            for x in (q, k)
        )  # fmt: skip
    past = ""
    if write.input(3) and write.input(4):
        past = _length(write, write.input(3))
        k = write.call("Concat", write.input(3), k, axis=2)
        v = write.call("Concat", write.input(4), v, axis=2)
    for index, x in ((1, k), (2, v)):
        if write.output(index):
            write.call("Identity", x, into=write.output(index))
    bias = _group_bias(write, length, past, start, ends, dtype)
    if heads != kv_heads:
        k, v = (_repeat(write, x, heads, kv_heads, head) for x in (k, v))
    scale = write.attribute("scale", 0.0) or 1 / sqrt(head)
    softcap = write.attribute("softcap", 0.0)
    _finish(write, _Heads(q, k, v, (bias,), scale, softcap), heads * head)
    return True


def _has_only(write: Writer, attributes: set[str], inputs: "range | tuple[int, ...]") -> bool:
    """Return whether the node uses nothing but these attributes and inputs."""
    names = {entry.name for entry in write.proto.attribute}
    given = {index for index, name in enumerate(write.proto.input) if name}
    return names <= attributes and given <= set(inputs)


def _to_heads(write: Writer, x: str, heads: int, head: int) -> str:
    """[B, T, N·D] to [B, N, T, D]."""
    split = write.call("Reshape", x, write.constant([0, 0, heads, head]))
    return write.call("Transpose", split, perm=[0, 2, 1, 3])


def _cut(write: Writer, bias: str, sizes: tuple[int, ...]) -> list[str]:
    names = [write.draft.fresh_value(f"{bias}.{letter}") for letter in "qkv"]
    if write.draft.version("") >= 13:
        write.call("Split", bias, write.constant(list(sizes)), into=names, axis=0)
    else:
        write.call("Split", bias, into=names, axis=0, split=list(sizes))
    return names


def _finish(write: Writer, heads: _Heads, width: int) -> None:
    """Write softmax(scale · q kᵀ + bias) v and put the heads side by side again."""
    dtype = write.dtype(write.input(0))
    turned = write.call("Transpose", heads.k, perm=[0, 1, 3, 2])
    scores = write.call("MatMul", heads.q, turned, part="scores")
    scores = write.call("Mul", scores, write.constant(heads.scale, dtype))
    if heads.softcap > 0:
        cap = write.constant(heads.softcap, dtype)
        scores = write.call("Mul", write.call("Tanh", write.call("Div", scores, cap)), cap)
    for bias in heads.bias:
        scores = write.call("Add", scores, bias)
    p = write.call("Softmax", scores, axis=-1)
    values = write.call("MatMul", p, heads.v, part="values")
    joined = write.call("Transpose", values, perm=[0, 2, 1, 3])
    write.call("Reshape", joined, write.constant([0, 0, width]), into=write.output(0))


def _padding(write: Writer, mask: str, dtype: "np.dtype[np.generic]") -> tuple[str, ...] | None:
    """Return what a mask of 1 (seen) and 0 (hidden) adds to scores; None for a form that is not known."""
    if not mask:
        return ()
    shape = write.shape(mask)
    if shape is None or len(shape) not in (2, 3):
        return None
    form = [0, 1, 1, -1] if len(shape) == 2 else None
    if form is not None:
        wide = write.call("Reshape", mask, write.constant(form))
    elif write.draft.version("") >= 13:
        wide = write.call("Unsqueeze", mask, write.constant([1]))
    else:
        wide = write.call("Unsqueeze", mask, axes=[1])
    code = _code(dtype)
    low = write.attribute("mask_filter_value", _HIDDEN)
    seen = write.call("Cast", wide, to=code)
    hidden = write.call("Sub", write.constant(1.0, dtype), seen)
    return (write.call("Mul", hidden, write.constant(low, dtype)),)


def _code(dtype: "np.dtype[np.generic]") -> int:
    return {"float16": 10, "float64": 11, "bfloat16": 16}.get(dtype.name, 1)


def _length(write: Writer, x: str) -> str:
    """Number of tokens of [B, N, T, D], one element."""
    return write.call("Gather", write.call("Shape", x), write.constant([2]), axis=0)


def _count(write: Writer, length: str) -> str:
    """0, 1, … below ``length`` (one element)."""
    scalar = write.call("Reshape", length, write.constant(np.zeros(0)))
    zero, one = write.constant(np.int64(0)), write.constant(np.int64(1))
    return write.call("Range", zero, scalar, one)


def _as_float(write: Writer, x: str) -> tuple[str, str]:
    """``x`` and zero as floats: Max takes integers only since opset 12."""
    return write.call("Cast", x, to=1), write.constant(0.0, np.float32)


def _causal(write: Writer, q: str, k: str, dtype: "np.dtype[np.generic]") -> str:
    """-10000 where a key comes after its query; queries are the last of the keys."""
    queries, keys = _length(write, q), _length(write, k)
    shift = write.call("Sub", keys, queries)
    own = write.call(
        "Reshape", write.call("Add", _count(write, queries), shift), write.constant([-1, 1])
    )
    position = write.call("Reshape", _count(write, keys), write.constant([1, -1]))
    later = write.call("Cast", write.call("Greater", position, own), to=_code(dtype))
    low = write.attribute("mask_filter_value", _HIDDEN)
    return write.call("Mul", later, write.constant(low, dtype))


def _group_bias(
    write: Writer, length: str, past: str, start: str, ends: str, dtype: "np.dtype[np.generic]"
) -> str:
    """Scores' bias [B, 1, S, P + S]: kept keys that a row has seen, then new ones up to the query's own.

    The keys that a row has seen are its first ``start`` kept ones, so that key j of the past stands
    at position j and new key i at ``start`` + i.
    """
    steps = _count(write, length)
    own = write.call("Add", start, write.call("Reshape", steps, write.constant([1, -1])))
    queries = write.call("Reshape", own, write.constant([0, 1, -1, 1]))
    position = own
    if past:
        kept = write.call("Reshape", _count(write, past), write.constant([1, -1]))
        unseen = write.call("Cast", write.call("Less", kept, start), to=7)
        # keys of the past that a row has not seen stand beyond every query
        far = write.constant(1 << 30)
        moved = write.call(
            "Add", kept, write.call("Mul", write.call("Sub", write.constant(1), unseen), far)
        )
        position = write.call("Concat", moved, own, axis=1)
    keys = write.call("Reshape", position, write.constant([0, 1, 1, -1]))
    hidden = write.call("Cast", write.call("Greater", keys, queries), to=_code(dtype))
    window = int(write.attribute("local_window_size", -1))
    if window > 0:
        edge = write.call("Sub", queries, write.constant(window - 1))
        before = write.call("Cast", write.call("Less", keys, edge), to=_code(dtype))
        hidden = write.call("Add", hidden, before)
    return write.call("Mul", hidden, write.constant(-60000.0, dtype))


def _repeat(write: Writer, x: str, heads: int, kv_heads: int, head: int) -> str:
    """[B, KV, T, D] to [B, N, T, D]: each head of the file serves a group of queries."""
    wide = write.call("Reshape", x, write.constant([0, kv_heads, 1, -1, head]))
    ones = write.constant([1, 1, heads // kv_heads, 1, 1])
    spread = write.call("Expand", wide, ones)
    return write.call("Reshape", spread, write.constant([0, heads, -1, head]))
