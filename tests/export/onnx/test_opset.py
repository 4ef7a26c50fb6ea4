"""A model raised to a later opset computes what it did."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mpsearch.export.onnx.opset import upgrade_model

SCALES = [(0.5, 0.5), (0.6, 0.34), (2.0, 1.5), (0.5, 2.0), (1.7, 0.4), (1.0, 1.0), (1.0, 0.75)]


def run(model: bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options).run(None, feeds)[0]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", SCALES)
def test_scales_that_only_a_run_knows_round_as_before(
    scales: tuple[float, float], mode: str
) -> None:
    """Resize of opset 10 rounds up where it makes less, down where it makes more."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "s"], ["y"], "resize", mode=mode)],
        "g",
        [info("x", TensorProto.FLOAT, [1, 1, 7, 9]), info("s", TensorProto.FLOAT, [4])],
        [info("y", TensorProto.FLOAT, None)],
    )
    opset = [helper.make_opsetid("", 10)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    x = np.random.default_rng(0).standard_normal((1, 1, 7, 9)).astype(np.float32)
    feeds = {"x": x, "s": np.array([1, 1, *scales], np.float32)}
    raised = upgrade_model(model, 23, ())
    assert raised.opset_import[0].version == 23
    expected = run(model.SerializeToString(), feeds)
    found = run(raised.SerializeToString(), feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
