"""A small network in whose int8 plan onnxruntime has every kind of kernel, and where it runs what."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from mpsearch.data.batches import Batches, make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import Array, build

INTEGER_KERNELS = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}


def branching_net(seed: int = 0) -> onnx.ModelProto:
    """Two branches of convolutions that are concatenated, pooled, added to, and classified."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "stem", pads=[1] * 4),
        node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "left", pads=[1] * 4, group=16),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r0", "w2"], ["c2"], "right"),
        node("Concat", ["r1", "c2"], ["j"], "join", axis=1),
        node("MaxPool", ["j"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["m", "w3", "b3"], ["c3"], "narrow"),
        node("Conv", ["c3", "w4", "b4"], ["c4"], "residual", pads=[1] * 4),
        node("Add", ["c3", "c4"], ["a"], "add"),
        node("Conv", ["a", "w5", "b5"], ["c5"], "last"),
        node("Relu", ["c5"], ["r5"], "relu5"),
        node("Flatten", ["r5"], ["f"], "flatten"),
        node("Gemm", ["f", "w6", "b6"], ["g"], "hidden", transB=1),
        node("Relu", ["g"], ["rg"], "relu6"),
        node("MatMul", ["rg", "w7"], ["h"], "head"),
        node("Add", ["h", "b7"], ["z"], "bias"),
        node("Gemm", ["rg", "w8", "b8"], ["v"], "value"),
    ]
    weights = {
        "w0": normal(16, 3, 3, 3), "b0": normal(16), "w1": normal(16, 1, 3, 3), "b1": normal(16),
        "w2": normal(8, 16, 1, 1), "w3": normal(16, 24, 1, 1), "b3": normal(16),
        "w4": normal(16, 16, 3, 3), "b4": normal(16), "w5": normal(8, 16, 1, 1), "b5": normal(8),
        "w6": normal(32, 128), "b6": normal(32), "w7": normal(32, 5), "b7": normal(5),
        "w8": normal(32, 3), "b8": normal(3),
    }  # fmt: skip
    return build(nodes, {"x": ["n", 3, 8, 8]}, {"z": ["n", 5], "v": ["n", 3]}, weights)


def pictures(seed: int = 1, n: int = 8) -> Batches:
    """Data for :func:`branching_net`."""
    x = np.random.default_rng(seed).standard_normal((n, 3, 8, 8)).astype("float32")
    return make_batches({"x": x}, batch_size=4)


def plan_of(
    model: onnx.ModelProto, folder: Path, layers: Mapping[str, str], other: str = "fp32"
) -> tuple[Plan, Path]:
    """A plan of ``model``, with the layers' schemes by name, calibrated on :func:`pictures`, and its file."""
    path = folder / "net.onnx"
    onnx.save(model, path)
    names = dict.fromkeys(("fp32", *layers.values(), other))
    space = SearchSpace("s", tuple(map(find_scheme, names)), "fp32")
    graph = import_onnx(path)
    simulator = Simulator(graph, space, pictures(n=64))
    chosen = tuple(
        space.index(layers.get(graph.layers[group.layers[0]].name, other)) for group in graph.groups
    )
    return make_plan(Point(chosen, {}), simulator), path


def run_profiled(
    path: Path, feeds: Mapping[str, Array], folder: Path, outputs: Sequence[str] | None = None
) -> tuple[list[Array], list[str]]:
    """Outputs with default optimisations, and the kernels that onnxruntime's profiler saw, in order."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = session.run(outputs, dict(feeds))
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event["args"]["op_name"] for event in events if event.get("cat") == "Node"]
    return found, kernels
