"""What a search recommends is beaten by no uniform plan, on data that no decision saw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import mpsearch as mp
from mpsearch.stats.estimates import estimate_mean
from tests.support.command_line import Mpsearch

Draw = Callable[[int, int], dict[str, NDArray[np.float32]]]
SIZE, BOXES, SCORES = 8, 4, 3


def detector(path: Path, seed: int) -> Draw:
    """Two convolutions, then boxes over hundreds of pixels and scores of hundredths in one output."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32) * 1.5

    constants = {
        "w1": weight(16, 3, 3, 3),
        "w2": weight(32, 16, 3, 3),
        "wb": weight(BOXES, 32, 1, 1),
        "ws": weight(SCORES, 32, 1, 1),
        "pixels": np.float32(100.0),
        "bias": np.full(SCORES, -3.0, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "body", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "wb"], ["b"], "boxes"),
        helper.make_node("Mul", ["b", "pixels"], ["boxes_out"]),
        helper.make_node("Conv", ["r2", "ws", "bias"], ["s"], "scores"),
        helper.make_node("Sigmoid", ["s"], ["scores_out"]),
        helper.make_node("Concat", ["boxes_out", "scores_out"], ["y"], axis=1),
    ]
    return save(path, nodes, constants, ["n", 3, SIZE, SIZE], ["n", BOXES + SCORES, SIZE, SIZE])


def classifier(path: Path, seed: int) -> Draw:
    """A residual network whose last layer scores classes."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32) * 1.6

    constants = {
        "w1": weight(16, 3, 3, 3),
        "w2": weight(16, 16, 3, 3),
        "w3": weight(16, 16, 1, 1),
        "w4": weight(8, 16),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "left", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], "right"),
        helper.make_node("Add", ["c3", "r1"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w4"], ["logits"], "head", transB=1),
        helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    return save(path, nodes, constants, ["n", 3, SIZE, SIZE], ["n", 8])


def regressor(path: Path, seed: int) -> Draw:
    """A perceptron of three layers with four outputs of its own units."""
    rng = np.random.default_rng(seed)
    constants = {
        f"w{i}": (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32) * 1.5
        for i, shape in enumerate([(32, 64), (64, 64), (64, 4)])
    }
    constants["units"] = np.array([1, 1, 300, 0.01], np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"], "second"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["e"], "third"),
        helper.make_node("Mul", ["e", "units"], ["y"]),
    ]
    return save(path, nodes, constants, ["n", 32], ["n", 4])


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.float32]],
    shape: list[object],
    output: list[object],
) -> Draw:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    sizes = [int(str(size)) for size in shape[1:]]

    def draw(n: int, seed: int) -> dict[str, NDArray[np.float32]]:
        return {"x": np.random.default_rng(seed).normal(size=(n, *sizes)).astype(np.float32)}

    return draw


MODELS = {"detector": detector, "classifier": classifier, "regressor": regressor}
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
LIMITS = [[], ["--max-effective-bits", "9"]]


@pytest.mark.parametrize("limits", LIMITS, ids=["free", "bits"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", MODELS)
def test_no_uniform_plan_beats_a_choice_on_held_out_data(
    name: str, seed: int, limits: list[str], tmp_path: Path, mpsearch: Mpsearch
) -> None:
    model = tmp_path / f"{name}.onnx"
    draw = MODELS[name](model, 10 + seed)
    np.savez(tmp_path / "calib.npz", **draw(24, 100 + seed))
    np.savez(tmp_path / "held.npz", **draw(400, 200 + seed))
    options = ["--device", "npu_200tops", "--seed", seed, "--measure", 8, *limits]
    result = mpsearch(
        "search", model, "--data", tmp_path / "calib.npz", *options, "-o", tmp_path / "run"
    )
    assert result.code == 0, result.err
    run = mp.open_run(tmp_path / "run")
    space = mp.read_space("npu")
    simulator = mp.Simulator(mp.import_onnx(model), space, mp.read_batches(tmp_path / "calib.npz"))
    unseen = simulator.on_data(mp.read_batches(tmp_path / "held.npz"))
    rows = [row for row in run.results.rows if row.assignment is not None]
    uniforms = [row for row in rows if row.label.startswith("uniform")]
    for chosen in (row for row in rows if row not in uniforms):
        for uniform in uniforms:
            cheaper = (
                uniform.latency_us <= chosen.latency_us
                and uniform.weight_bytes <= chosen.weight_bytes
                and uniform.assignment != chosen.assignment
            )
            losses = [unseen.losses(np.array(row.assignment)) for row in (uniform, chosen)]
            less = estimate_mean(losses[0] - losses[1])
            beaten = cheaper and less.mean < -1.96 * less.stderr
            assert not beaten, f"{uniform.label} beats {chosen.label} by {less}"
