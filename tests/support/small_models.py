"""Small ONNX models and simulators of them, for the metrics' tests."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace

Weights = Sequence[NDArray[np.float32]]
DENSE = ("fp32", "fp8", "nvfp4")
SPARSE = ("fp32", "fp8", "nvfp4", "fp8_2of4")


def space_of(*names: str) -> SearchSpace:
    """The named schemes; the first is the base."""
    return SearchSpace("small", tuple(find_scheme(name) for name in names), names[0])


def write_mlp(path: Path, weights: Weights, *, classify: bool = True) -> Path:
    """Gemm, Relu, Gemm, …; a softmax at the end or the last Gemm's numbers."""
    nodes, initialisers, value = [], [], "x"
    for i, weight in enumerate(weights):
        initialisers.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"h{i}"], f"fc{i}"))
        value = f"h{i}"
        if i + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"], f"relu{i}"))
            value = f"r{i}"
    if classify:
        nodes.append(helper.make_node("Softmax", [value], ["y"], "softmax", axis=-1))
    else:
        nodes.append(helper.make_node("Identity", [value], ["y"], "identity"))
    sizes = weights[0].shape[0], weights[-1].shape[1]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", sizes[1]])],
        initialisers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def random_weights(*sizes: int, seed: int = 0, scale: float = 1.0) -> list[NDArray[np.float32]]:
    """Weights of a perceptron whose activations keep their size."""
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.standard_normal((a, b)) * (2 / a) ** 0.5).astype(np.float32)
        for a, b in pairwise(sizes)
    ]


def mlp_simulator(
    folder: Path,
    weights: Weights,
    *,
    schemes: Sequence[str] = DENSE,
    classify: bool = True,
    n: int = 24,
    batch_size: int = 10,
    seed: int = 1,
    x: NDArray[np.float32] | None = None,
) -> Simulator:
    """A simulator of the perceptron on random (or the given) inputs."""
    path = write_mlp(folder / "mlp.onnx", weights, classify=classify)
    if x is None:
        x = np.random.default_rng(seed).standard_normal((n, weights[0].shape[0]), dtype=np.float32)
    batches = make_batches({"x": x}, batch_size=batch_size)
    return Simulator(import_onnx(path), space_of(*schemes), batches, device="cpu")
