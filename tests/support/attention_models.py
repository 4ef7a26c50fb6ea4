"""Attention as onnxruntime's optimiser and its generative exporters write it."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.graph_models import model, noise, tensor

Arrays = dict[str, NDArray[np.generic]]
node = helper.make_node
MS = "com.microsoft"


def fused_encoder() -> tuple[onnx.ModelProto, Arrays]:
    """BERT's layer after fusion: Attention with a mask, SkipLayerNormalization, FastGelu."""
    nodes = [
        node("EmbedLayerNormalization", ["ids", "", "words", "places", "", "g0", "b0"],
             ["e", "ignored"], domain=MS),
        node("Attention", ["e", "wqkv", "bqkv", "mask"], ["a"], name="attention", domain=MS,
             num_heads=2),
        node("MatMul", ["a", "wo"], ["o"], name="out"),
        node("SkipLayerNormalization", ["o", "e", "g1", "b1", "bo"], ["n1"], domain=MS),
        node("MatMul", ["n1", "w1"], ["h"], name="up"),
        node("FastGelu", ["h", "bh"], ["f"], domain=MS),
        node("MatMul", ["f", "w2"], ["d"], name="down"),
        node("SkipLayerNormalization", ["d", "n1", "g2", "b2"], ["n2", "", "", "sum"], domain=MS),
        node("BiasGelu", ["n2", "bg"], ["c"], domain=MS),
        node("QuickGelu", ["c"], ["y"], domain=MS),
    ]  # fmt: skip
    sizes = {
        "words": (30, 16), "places": (12, 16), "wqkv": (16, 48), "bqkv": (48,), "wo": (16, 16),
        "bo": (16,), "w1": (16, 64), "bh": (64,), "w2": (64, 16), "bg": (16,),
    }  # fmt: skip
    sizes |= dict.fromkeys(("g0", "b0", "g1", "b1", "g2", "b2"), (16,))
    tensors = [tensor(name, *shape) for name, shape in sizes.items()]
    made = model(
        nodes,
        {"ids": ["batch", 6], "mask": ["batch", 6]},
        ["y"],
        tensors,
        types={"ids": TensorProto.INT32, "mask": TensorProto.INT32},
        domains=[MS],
    )
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, (3, 6)).astype(np.int32)
    mask = (np.arange(6) < np.array([[6], [4], [5]])).astype(np.int32)
    return made, {"ids": ids, "mask": mask}


def causal_fused() -> tuple[onnx.ModelProto, Arrays]:
    """GPT-2's attention after fusion, without a past."""
    nodes = [
        node("Attention", ["x", "w", "b"], ["a"], domain=MS, num_heads=4, unidirectional=1),
        node("MatMul", ["a", "wo"], ["y"], name="out"),
    ]
    made = model(
        nodes, {"x": ["batch", 5, 16]}, ["y"],
        [tensor("w", 16, 48), tensor("b", 48), tensor("wo", 16, 16)], domains=[MS],
    )  # fmt: skip
    return made, {"x": noise(2, 5, 16)}


def separate_heads() -> tuple[onnx.ModelProto, Arrays]:
    """MultiHeadAttention across two sequences with biases, a padding mask and a past."""
    nodes = [
        *(
            node("MatMul", [x, f"w{part}"], [part], name=part)
            for part, x in (("q", "x"), ("k", "memory"), ("v", "memory"))
        ),
        node("MultiHeadAttention", ["q", "k", "v", "bias", "", "", "past_k", "past_v"],
             ["a", "present_k", "present_v"], domain=MS, num_heads=2, name="mha"),
        node("MatMul", ["a", "wo"], ["y"], name="out"),
    ]  # fmt: skip
    tensors = [tensor(f"w{part}", 16, 16) for part in "qkvo"] + [tensor("bias", 48)]
    made = model(
        nodes,
        {
            "x": ["batch", 3, 16],
            "memory": ["batch", 3, 16],
            "past_k": ["batch", 2, 4, 8],
            "past_v": ["batch", 2, 4, 8],
        },
        ["y", "present_k", "present_v"],
        tensors,
        domains=[MS],
    )
    feeds = {"x": noise(2, 3, 16), "memory": noise(2, 3, 16, seed=1)}
    past = {"past_k": noise(2, 2, 4, 8, seed=2), "past_v": noise(2, 2, 4, 8, seed=3)}
    return made, feeds | past


def grouped(
    past: int = 4, *, packed: bool = False, window: int = -1
) -> tuple[onnx.ModelProto, Arrays]:
    """A decoder layer as generative exporters write it: RMS norms, rotary GQA with a cache, SwiGLU."""
    tokens, heads, kv, head = (1 if past else 5), 4, 2, 16
    angles = np.outer(np.arange(16), 1 / 10 ** np.arange(8)).astype(np.float32)
    if packed:
        project = [node("MatMul", ["n", "wqkv"], ["q"], name="qkv")]
        operands = ["q", "", ""]
    else:
        project = [node("MatMul", ["n", f"w{part}"], [part], name=part) for part in "qkv"]
        operands = ["q", "k", "v"]
    nodes = [
        node("Gather", ["embed", "ids"], ["e"], name="embedding"),
        node("SimplifiedLayerNormalization", ["e", "g0"], ["n"], axis=-1, epsilon=1e-6),
        *project,
        node("GroupQueryAttention",
             [*operands, "past_k", "past_v", "seen", "total", "cos", "sin"],
             ["a", "present_k", "present_v"], name="gqa", domain=MS, num_heads=heads,
             kv_num_heads=kv, do_rotary=1, local_window_size=window),
        node("MatMul", ["a", "wo"], ["o"], name="out"),
        node("SkipSimplifiedLayerNormalization", ["e", "o", "g1"], ["m", "", "", "r"], domain=MS,
             epsilon=1e-6),
        node("MatMul", ["m", "wg"], ["g"], name="gate"),
        node("MatMul", ["m", "wu"], ["u"], name="up"),
        node("Sigmoid", ["g"], ["s"]),
        node("Mul", ["g", "s"], ["gs"]),
        node("Mul", ["gs", "u"], ["gu"]),
        node("MatMul", ["gu", "wd"], ["d"], name="down"),
        node("Add", ["r", "d"], ["f"]),
        node("Transpose", ["embed"], ["tied"], perm=[1, 0]),
        node("MatMul", ["f", "tied"], ["logits"], name="head"),
    ]  # fmt: skip
    width = heads * head
    sizes = {
        "embed": (50, width), "wq": (width, width), "wk": (width, kv * head),
        "wv": (width, kv * head), "wqkv": (width, width + 2 * kv * head), "wo": (width, width),
        "wg": (width, 160), "wu": (width, 160), "wd": (160, width), "g0": (width,), "g1": (width,),
    }  # fmt: skip
    tensors = [tensor(name, *shape) for name, shape in sizes.items()]
    tensors += [
        numpy_helper.from_array(np.cos(angles), "cos"),
        numpy_helper.from_array(np.sin(angles), "sin"),
        numpy_helper.from_array(np.array(past + tokens, np.int32), "total"),
    ]
    made = model(
        nodes,
        {
            "ids": ["batch", tokens],
            "seen": ["batch"],
            "past_k": ["batch", kv, past, head],
            "past_v": ["batch", kv, past, head],
        },
        ["logits", "present_k", "present_v"],
        tensors,
        types={"ids": TensorProto.INT64, "seen": TensorProto.INT32},
        domains=[MS],
    )
    rng = np.random.default_rng(1)
    return made, {
        "ids": rng.integers(0, 50, (2, tokens)),
        "seen": np.full(2, past + tokens - 1, np.int32),
        "past_k": noise(2, kv, past, head, seed=4),
        "past_v": noise(2, kv, past, head, seed=5),
    }
