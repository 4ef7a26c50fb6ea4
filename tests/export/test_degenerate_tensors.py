"""Tensors that hold nothing, only zeros or only one number end in numbers, never in NaN."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import mpsearch as mp
from mpsearch.errors import DataError
from mpsearch.problem.front import Point
from mpsearch.simulate.observation import SilentActivationWarning
from mpsearch.simulate.simulator import Simulator
from tests.support.small_models import space_of
from tests.support.torch_models import build

RUNTIMES = ("reference", "openvino")


def noise(*shape: int) -> NDArray[np.float32]:
    return (np.random.default_rng(0).standard_normal(shape) / 4).astype(np.float32)


def two_inputs(folder: Path, weight: NDArray[np.float32]) -> Path:
    """x and a second input z each go through a layer, and are added."""
    from onnx import helper

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "left"),
        helper.make_node("MatMul", ["z", "v"], ["b"], "right"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    shapes = {"x": ["n", 32], "z": ["n", 32]}
    model = build(nodes, shapes, {"y": ["n", 8]}, {"w": weight, "v": noise(32, 8)})
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("scheme", ["nvfp4", "fp8", "int8", "mxfp4", "mxfp8"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_activation_of_zeros_is_warned_of_and_stays_zero(
    scheme: str, runtime: str, tmp_path: Path
) -> None:
    path = two_inputs(tmp_path, noise(32, 8))
    np.savez(tmp_path / "d.npz", x=noise(8, 32), z=np.zeros((8, 32), np.float32))
    batches = mp.read_batches(tmp_path / "d.npz")
    space = space_of("fp16", scheme)
    if scheme.startswith("mx"):  # its scales are live: no range is calibrated
        simulator = Simulator(mp.import_onnx(path), space, batches)
    else:
        with pytest.warns(SilentActivationWarning, match="'z', which layer 'right' reads, is zero"):
            simulator = Simulator(mp.import_onnx(path), space, batches)
    plan = mp.make_plan(Point((1, 1), {}), simulator)
    mp.export_plan(plan, path, tmp_path / "out")
    found = mp.verify_plan(plan, path, tmp_path / "out", batches, runtime=runtime)
    assert found.ok, str(found)


@pytest.mark.parametrize("scheme", ["nvfp4", "fp8", "int8", "w4a16", "mxfp4"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_channels_of_one_number_are_exported_as_such(
    scheme: str, value: float, tmp_path: Path
) -> None:
    weight = noise(32, 8)
    weight[:, 3] = value
    path = two_inputs(tmp_path, weight)
    np.savez(tmp_path / "d.npz", x=noise(8, 32), z=noise(8, 32) * 2)
    batches = mp.read_batches(tmp_path / "d.npz")
    simulator = Simulator(mp.import_onnx(path), space_of("fp16", scheme), batches)
    plan = mp.make_plan(Point((1, 1), {}), simulator)
    mp.export_plan(plan, path, tmp_path / "out")
    for runtime in RUNTIMES:
        found = mp.verify_plan(plan, path, tmp_path / "out", batches, runtime=runtime)
        assert found.ok, str(found)


def split_model(folder: Path, sizes: tuple[int, int]) -> Path:
    from onnx import helper

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Split", ["a", "sizes"], ["b", "c"], axis=1),
        helper.make_node("MatMul", ["b", "v"], ["y"], "second"),
        helper.make_node("MatMul", ["c", "v"], ["z"], "third"),
    ]
    outputs = {"y": ["n", sizes[0], 8], "z": ["n", sizes[1], 8]}
    constants = {"w": noise(16, 16), "v": noise(16, 8), "sizes": np.array(sizes)}
    onnx.save(build(nodes, {"x": ["n", 5, 16]}, outputs, constants), folder / "m.onnx")
    np.savez(folder / "d.npz", x=noise(16, 5, 16) * 4)
    return folder / "m.onnx"


def test_an_output_without_elements_adds_nothing_to_the_loss(tmp_path: Path) -> None:
    path = split_model(tmp_path, (5, 0))
    batches = mp.read_batches(tmp_path / "d.npz")
    graph, space = mp.import_onnx(path), space_of("fp32", "int8_dynamic")
    losses = {
        loss: Simulator(graph, space, batches, loss=loss).losses(np.ones(len(graph.groups), int))
        for loss in (None, "kl:y", "mse", "mse:y")
    }
    assert all(np.isfinite(found).all() for found in losses.values())
    np.testing.assert_array_equal(losses[None], losses["kl:y"])
    np.testing.assert_array_equal(losses["mse"], losses["mse:y"])


def test_a_loss_of_an_output_without_elements_is_refused(tmp_path: Path) -> None:
    path = split_model(tmp_path, (5, 0))
    batches = mp.read_batches(tmp_path / "d.npz")
    with pytest.raises(DataError, match="'z' holds no elements"):
        Simulator(mp.import_onnx(path), space_of("fp32", "int8"), batches, loss="mse:z")
