"""A model of three layers and its data, so that the examples need nothing else."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES = (32, 64, 64, 10)


def write_small_model(folder: Path) -> tuple[Path, Path]:
    """Write a perceptron and 64 samples for it into ``folder``; return both files."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for i, (n, m) in enumerate(pairwise(SIZES)):
        weight = (rng.standard_normal((n, m)) * (2 / n) ** 0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"h{i}"], f"fc{i}"))
        value = f"h{i}"
        if m != SIZES[-1]:
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"], f"relu{i}"))
            value = f"r{i}"
    nodes.append(helper.make_node("Softmax", [value], ["y"], "softmax", axis=-1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZES[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIZES[-1]])],
        weights,
    )
    model, data = folder / "small.onnx", folder / "calib.npz"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), model)
    np.savez(data, x=rng.standard_normal((64, SIZES[0])).astype(np.float32))
    return model, data
