"""Random models on which some runtime fails while it runs: known gaps, fixed batches, wrong sizes."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
ROWS = 4


def _weight(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.standard_normal(shape) / 2).astype(np.float32)


def _grouped(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], list[int], dict[str, Array]]:
    groups, inner, outer, k = (
        int(rng.integers(low, high)) for low, high in ((2, 5), (1, 3), (1, 3), (1, 4))
    )
    options = {"strides": [int(rng.integers(1, 3))] * 2, "group": groups}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", **options)
    size = int(rng.integers(2, 6))
    return [node], [groups * inner, size, size], {"w": _weight(rng, groups * inner, outer, k, k)}


def _one_hot(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], list[int], dict[str, Array]]:
    width, classes, k = int(rng.integers(2, 9)), int(rng.integers(2, 6)), 1
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["l"], "first"),
        helper.make_node("TopK", ["l", "k"], ["t", "a"], "top", axis=-1),
        helper.make_node("OneHot", ["a", "d", "v"], ["o"], "hot", axis=-1),
        helper.make_node("MatMul", ["o", "u"], ["y"], "second"),
    ]
    depth = np.array([classes] if rng.random() < 0.5 else classes)
    return nodes, [width], {
        "w": _weight(rng, width, classes),
        "u": _weight(rng, classes, 3),
        "k": np.array([k]),
        "d": depth,
        "v": np.array([0, 1], np.float32),
    }  # fmt: skip


def _pooled(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], list[int], dict[str, Array]]:
    """Pools that the reference runs wrongly or not at all."""
    rank = int(rng.integers(1, 4))
    op_type = str(rng.choice(["MaxPool", "AveragePool", "LpPool", "GlobalLpPool", "GlobalMaxPool"]))
    options: dict[str, object] = {}
    if not op_type.startswith("Global"):
        options = {"kernel_shape": [2] * rank, "strides": [int(rng.integers(1, 3))] * rank}
        options["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node(op_type, ["c"], ["y"], "pool", **options),
    ]
    return nodes, [2, *[5] * rank], {"w": _weight(rng, 3, 2, *[1] * rank)}


def _normed(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], list[int], dict[str, Array]]:
    size = int(rng.choice([1, 3, 5]))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("LRN", ["c"], ["y"], "lrn", size=size, alpha=0.1),
    ]
    return nodes, [2, 3, 3], {"w": _weight(rng, int(rng.integers(1, 6)), 2, 1, 1)}


def _fixed(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], list[int], dict[str, Array]]:
    """A product; the batch is stated in the file."""
    width = int(rng.integers(2, 9))
    return (
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        [width],
        {"w": _weight(rng, width, 4)},
    )


KINDS: tuple[
    Callable[[np.random.Generator], tuple[list[onnx.NodeProto], list[int], dict[str, Array]]], ...
] = (_grouped, _one_hot, _pooled, _normed, _fixed)


def draw_failing(number: int) -> tuple[str, onnx.ModelProto, dict[str, Array]]:
    """Return kind, model and inputs of a number."""
    rng = np.random.default_rng([5, number])
    make = KINDS[number % len(KINDS)]
    nodes, shape, weights = make(rng)
    batch: int | str = int(rng.choice([1, 1, 2])) if make is _fixed else "N"
    graph = helper.make_graph(
        nodes,
        "failing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    opset = helper.make_opsetid("", int(rng.choice([17, 20])))
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return make.__name__, model, {"x": rng.standard_normal((2 * ROWS, *shape)).astype(np.float32)}
