"""A network of four layers with data, small enough that a whole search takes a second."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIZE, CLASSES = 16, 6, 4


def write_model(path: Path, *, extra: Sequence[onnx.NodeProto] = (), seed: int = 0) -> Path:
    """Conv, Relu, depthwise Conv, Relu, Conv, Relu, mean, Gemm, Softmax."""
    rng = np.random.default_rng(seed)
    shapes = {
        "w1": (CHANNELS, 3, 3, 3),
        "w2": (CHANNELS, 1, 3, 3),
        "w3": (CHANNELS, CHANNELS, 1, 1),
        "w4": (CLASSES, CHANNELS),
    }
    weights = {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32) * 2
        for name, shape in shapes.items()
    }
    weights["b4"] = rng.normal(size=CLASSES).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depth", pads=[1, 1, 1, 1], group=CHANNELS),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], "point"),
        helper.make_node("Relu", ["c3"], ["r3"]),
        *extra,
        helper.make_node("GlobalAveragePool", ["r3"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["logits"], "head", transB=1),
        helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests"
    )
    onnx.save(model, path)
    return path


def draw(n: int, *, seed: int, labels: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {"x": rng.normal(size=(n, 3, SIZE, SIZE)).astype(np.float32)}
    if labels:
        arrays["labels"] = rng.integers(0, CLASSES, n)
    return arrays


def write_job(folder: Path) -> Path:
    """Model, calibration and held-out data in ``folder``; returns it."""
    write_model(folder / "tiny.onnx")
    np.savez(folder / "calib.npz", **draw(24, seed=1))
    np.savez(folder / "held.npz", **draw(40, seed=2, labels=True))
    return folder
