"""What a runtime raises while it runs comes out as one line with runtime, node and reason."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from mpsearch.data.batches import read_batches
from mpsearch.errors import PlanError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.files import read_plan
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.registry import find
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.verify.verify_plan import verify_plan
from tests.support.command_line import Mpsearch
from tests.support.torch_models import build

RNG = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def grouped() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", group=4, strides=[2, 2])
    outputs: dict[str, list[int | str]] = {"y": ["N", 8, "h", "v"]}
    return build([node], {"x": ["N", 8, 5, 5]}, outputs, {"w": draw(8, 2, 2, 2)}), (16, 8, 5, 5)


def one_hot() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["l"], "first"),
        helper.make_node("TopK", ["l", "k"], ["t", "a"], "top", axis=-1),
        helper.make_node("OneHot", ["a", "d", "v"], ["o"], "hot", axis=-1),
        helper.make_node("MatMul", ["o", "u"], ["y"], "second"),
    ]
    weights: dict[str, NDArray[np.generic]] = {
        "w": draw(8, 4),
        "u": draw(4, 3),
        "k": np.array([2]),
        "d": np.array([4]),
        "v": np.array([0, 1], np.float32),
    }
    return build(nodes, {"x": ["N", 8]}, {"y": ["N", 2, 3]}, weights), (16, 8)


def exported(model: onnx.ModelProto, shape: tuple[int, ...], folder: Path) -> Path:
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "d.npz", x=draw(*shape) * 4)
    graph, batches = import_onnx(folder / "m.onnx"), read_batches(folder / "d.npz")
    simulator = Simulator(graph, read_space("npu"), batches)
    plan = make_plan(Point((1,) * len(graph.groups), {}), simulator)
    export_plan(plan, folder / "m.onnx", folder / "out")
    return folder / "out"


@pytest.mark.parametrize(
    ("case", "node"),
    [(grouped, r"'up' \(ConvTranspose\)"), (one_hot, r"'hot' \(OneHot\)")],
)
def test_what_the_reference_cannot_run_is_one_line_on_the_command_line(
    case: object, node: str, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    model, shape = case()  # type: ignore[operator]
    folder = exported(model, shape, tmp_path)
    files = ["--model", tmp_path / "m.onnx", "--data", tmp_path / "d.npz"]
    found = mpsearch("verify", folder, *files, "--runtime", "reference")
    assert found.code == 1
    assert len(found.err.strip().splitlines()) == 1
    assert re.search(
        f"reference failed at node {node} while it ran the exported model: .", found.err
    )
    assert mpsearch("verify", folder, *files, "--runtime", "openvino").code == 0


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("onnxruntime", "onnxruntime failed .*Got: 3 Expected: 1"),
        ("openvino", "OpenVINO"),
        ("reference", r"reference failed at node 'n' \(MatMul\)"),
    ],
)
def test_inputs_of_another_shape_are_one_line_in_every_runtime(
    runtime: str, reason: str, tmp_path: Path
) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "n")
    onnx.save(build([node], {"x": [1, 8]}, {"y": [1, 4]}, {"w": draw(8, 4)}), tmp_path / "m.onnx")
    session = find("runtimes", runtime)(tmp_path / "m.onnx")
    with pytest.raises(PlanError, match=reason) as raised:
        session.run({"x": draw(3, 7)}, ["y"])
    assert "\n" not in str(raised.value)


def test_a_resize_that_runtimes_compute_otherwise_is_unproven_in_the_reference(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "s"], ["r"], "resize", mode="nearest"),
        helper.make_node("Conv", ["r", "k"], ["y"], "conv"),
    ]
    weights = {"s": np.array([1, 1, 1.5, 1], np.float32), "k": draw(4, 2, 1, 1)}
    model = build(nodes, {"x": ["N", 2, 9, 9]}, {"y": ["N", 4, "h", "v"]}, weights, opset=19)
    with pytest.warns(UserWarning, match="'resize'"):
        folder = exported(model, (8, 2, 9, 9), tmp_path)
    plan, batches = read_plan(folder / "plan.json"), read_batches(tmp_path / "d.npz")
    for runtime, proven in (("reference", False), ("openvino", True)):
        with pytest.warns(UserWarning, match="'resize'"):
            found = verify_plan(plan, tmp_path / "m.onnx", folder, batches, runtime=runtime)
        assert found.ok, str(found)
        assert (found.whole is not None) == proven
        assert ("reference proves nothing here" in str(found)) == (not proven)
