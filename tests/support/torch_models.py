"""Small ONNX models and data that these tests run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import Batches, make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph

Array = NDArray[np.generic]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Array],
    *,
    opset: int = 17,
    types: Mapping[str, int] = {},
) -> onnx.ModelProto:
    def info(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), list(shape))

    graph = helper.make_graph(
        list(nodes),
        "g",
        [info(n, s) for n, s in inputs.items()],
        [info(n, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def imported(model: onnx.ModelProto, folder: Path) -> ModelGraph:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return import_onnx(path)


def conv_net(seed: int = 0, *, softmax: bool = True, scale: float = 1.0) -> onnx.ModelProto:
    """Stem, depthwise and pointwise convolutions, then pooling and a classifier of five classes."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) * scale / np.sqrt(np.prod(shape[1:]))).astype("float32")

    weights = {
        "w0": normal(20, 3, 3, 3),
        "b0": normal(20),
        "w1": normal(20, 1, 3, 3),
        "w2": normal(24, 20, 1, 1),
        "b2": normal(24),
        "w3": normal(24, 5),
        "b3": normal(5),
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "w0", "b0"], ["c0"], name="stem", pads=[1] * 4, strides=[2, 2]
        ),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="depthwise", pads=[1] * 4, group=20),
        helper.make_node("HardSwish", ["c1"], ["r1"], name="swish"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="pointwise"),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["z"], name="head"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["y"], name="softmax", axis=-1))
    return build(
        nodes,
        {"x": ["n", 3, 12, 16]},
        {"y" if softmax else "z": ["n", 5]},
        weights,
    )


def attention_net(seed: int = 1, tokens: int = 6, width: int = 16) -> onnx.ModelProto:
    """One attention block over tokens with a mask, and scores of four classes a token."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype("float32")

    weights = {
        "table": normal(11, width) * 3,
        **{f"w{n}": normal(width, width) for n in "qkvo"},
        "wc": normal(width, 4),
        "bc": normal(4),
        "one": np.float32(1),
        "far": np.float32(-1e4),
        "root": np.float32(1 / np.sqrt(width)),
        "axis": np.array([1], "int64"),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        *(helper.make_node("MatMul", ["e", f"w{n}"], [n], name=n) for n in "qkv"),
        helper.make_node("Transpose", ["k"], ["kt"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], name="scores"),
        helper.make_node("Mul", ["s", "root"], ["s1"], name="scale"),
        helper.make_node("Cast", ["mask"], ["mf"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mf"], ["mi"], name="invert"),
        helper.make_node("Mul", ["mi", "far"], ["mm"], name="penalty"),
        helper.make_node("Unsqueeze", ["mm", "axis"], ["mu"], name="lift"),
        helper.make_node("Add", ["s1", "mu"], ["s2"], name="masked"),
        helper.make_node("Softmax", ["s2"], ["p"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["a"], name="mix"),
        helper.make_node("MatMul", ["a", "wo"], ["o"], name="out"),
        helper.make_node("Add", ["o", "e"], ["r"], name="residual"),
        helper.make_node("MatMul", ["r", "wc"], ["c"], name="classify"),
        helper.make_node("Add", ["c", "bc"], ["z"], name="bias"),
    ]
    return build(
        nodes,
        {"ids": ["n", tokens], "mask": ["n", tokens]},
        {"z": ["n", tokens, 4]},
        weights,
        types={"ids": TensorProto.INT64, "mask": TensorProto.INT64},
    )


def images(n: int = 10, *, batch_size: int = 4, seed: int = 2, **more: Array) -> Batches:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3, 12, 16)).astype("float32")
    return make_batches({"x": x, **more}, batch_size=batch_size)


def sentences(n: int = 8, tokens: int = 6, *, batch_size: int = 4, **more: Array) -> Batches:
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, tokens + 1, n)
    mask = (np.arange(tokens) < lengths[:, None]).astype("int64")
    ids = rng.integers(0, 11, (n, tokens))
    return make_batches({"ids": ids, "mask": mask, **more}, batch_size=batch_size)
