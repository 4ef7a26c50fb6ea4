"""Where runtimes agree against the standard, their network is the one that is searched, and a warning says so."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from mpsearch.data.batches import make_batches
from mpsearch.program.departures import DepartureWarning, find_departures
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from tests.support.random_operators.compare import run_onnxruntime
from tests.support.torch_models import build, imported

X = np.random.default_rng(0).standard_normal((4, 2, 9, 9)).astype(np.float32)
EYE = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)


def resized(scales: tuple[float, ...], **attributes: object) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Resize", ["x", "", "s"], ["r"], "resize", **attributes),
        helper.make_node("Conv", ["r", "k"], ["y"], "conv"),
    ]
    weights = {"s": np.array(scales, np.float32), "k": EYE}
    return build(nodes, {"x": ["N", 2, 9, 9]}, {"y": ["N", 2, "h", "w"]}, weights, opset=19)


def simulated(model: onnx.ModelProto, folder: Path, x: NDArray[np.float32]) -> NDArray[np.generic]:
    simulator = Simulator(imported(model, folder), read_space("npu"), make_batches({"x": x}))
    (found,) = simulator.run({"x": x}).values()
    return found.numpy()


FRACTIONS = [
    ((1, 1, 1.5, 1), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ((1, 1, 0.6, 1.7), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ((1, 1, 0.6, 1.7), {"mode": "nearest", "coordinate_transformation_mode": "align_corners"}),
    (
        (1, 1, 0.6, 1),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    (
        (1, 1, 0.6, 1.7),
        {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
    ),
]
WHOLE = [
    ((1, 1, 2, 2), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ((1, 1, 2, 2), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ((1, 1, 0.6, 1.7), {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}),
]


@pytest.mark.parametrize(("scales", "attributes"), FRACTIONS)
def test_resizing_by_a_fraction_is_what_runtimes_do_and_the_node_is_named(
    scales: tuple[float, ...], attributes: dict[str, object], tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    model = resized(scales, **attributes)
    with pytest.warns(DepartureWarning, match="'resize': Resize by the scale"):
        found = simulated(model, tmp_path, X)
    np.testing.assert_allclose(found, run_onnxruntime(model, {"x": X})[0], atol=1e-5)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    np.testing.assert_allclose(found, compiled({"x": X})[0], atol=1e-5)


@pytest.mark.parametrize(("scales", "attributes"), WHOLE)
def test_where_runtimes_and_standard_agree_nothing_is_said(
    scales: tuple[float, ...], attributes: dict[str, object], tmp_path: Path
) -> None:
    model = resized(scales, **attributes)
    np.testing.assert_allclose(
        simulated(model, tmp_path, X), run_onnxruntime(model, {"x": X})[0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        (3, {"output_shape": [14, 12]}),
        (2, {"output_shape": [13, 11]}),
        (5, {"output_shape": [14, 12]}),
        (3, {"output_shape": [15, 13]}),
        (3, {"auto_pad": "SAME_UPPER", "output_shape": [14, 12]}),
        (3, {"auto_pad": "SAME_LOWER"}),
        (3, {"auto_pad": "VALID", "output_padding": [1, 0]}),
    ],
)
def test_a_transposed_convolution_crops_where_the_standard_says(
    kernel: int, attributes: dict[str, object], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    w = (rng.standard_normal((16, 8, kernel, kernel)) / 8).astype(np.float32)
    x = rng.standard_normal((8, 16, 7, 6)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2], **attributes)
    model = build([node], {"x": ["N", 16, 7, 6]}, {"y": ["N", 8, "h", "v"]}, {"w": w})
    np.testing.assert_allclose(
        simulated(model, tmp_path, x), run_onnxruntime(model, {"x": x})[0], atol=1e-5
    )


def test_a_transposed_convolution_smaller_than_its_stride_stays_small_as_in_runtimes(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((2, 3, 2, 1)).astype(np.float32)
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], "up", strides=[3, 2], auto_pad="SAME_UPPER"
    )
    model = build([node], {"x": ["N", 2, 9, 9]}, {"y": ["N", 3, "h", "v"]}, {"w": w})
    with pytest.warns(DepartureWarning, match=r"'up': ConvTranspose with auto_pad.*stride 3"):
        found = simulated(model, tmp_path, X)
    np.testing.assert_allclose(found, run_onnxruntime(model, {"x": X})[0], atol=1e-5)


def test_scales_that_are_computed_cannot_be_said(tmp_path: Path) -> None:
    graph = imported(resized((1, 1, 3, 2), mode="nearest"), tmp_path)
    assert find_departures(graph) == {}
