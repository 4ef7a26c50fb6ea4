"""An export for onnxruntime runs int8 on integer kernels with default optimisations, and computes what the plan says."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from mpsearch.errors import PlanError
from mpsearch.export.export_plan import export_plan
from mpsearch.verify.verify_plan import verify_plan
from tests.support.integer_models import (
    INTEGER_KERNELS,
    branching_net,
    pictures,
    plan_of,
    run_profiled,
)
from tests.support.torch_models import Array, build


def run_unoptimised(path: Path, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def test_int8_runs_on_integer_kernels_and_computes_what_the_file_says(tmp_path: Path) -> None:
    plan, model = plan_of(branching_net(), tmp_path, {}, "int8")
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    exported, feeds = tmp_path / "out" / "model.onnx", {"x": pictures(2).arrays["x"]}
    found, kernels = run_profiled(exported, feeds, tmp_path)
    seen = Counter(kernels)
    # `residual` is added in fp32 and `narrow` read by it too: rounding their outputs would be new errors
    assert seen["QLinearConv"] == 4
    assert seen["Conv"] + seen["FusedConv"] == 2
    assert sum(seen[name] for name in INTEGER_KERNELS) == 7
    np.testing.assert_allclose(found[0], run_unoptimised(exported, feeds)[0], rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("other", ["int8", "fp32", "fp16", "fp8", "w4a16_g32", "int8_dynamic"])
def test_every_layer_equals_the_simulation(tmp_path: Path, other: str) -> None:
    mixed = {"left": "int8", "right": "int8", "narrow": "int8", "hidden": "int8", "last": "int8"}
    plan, model = plan_of(branching_net(), tmp_path, mixed, other)
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    for data in (pictures(n=64), pictures(7, n=64)):  # the second goes beyond the calibrated ranges
        found = verify_plan(plan, model, tmp_path / "out", data, runtime="onnxruntime")
        assert found.ok, str(found)
    exported, feeds = tmp_path / "out" / "model.onnx", {"x": pictures().arrays["x"]}
    optimised, _ = run_profiled(exported, feeds, tmp_path)
    np.testing.assert_allclose(
        optimised[0], run_unoptimised(exported, feeds)[0], rtol=0.02, atol=2e-3
    )


def test_codes_of_the_whole_range_do_not_saturate(tmp_path: Path) -> None:
    net = branching_net()
    plan, model = plan_of(net, tmp_path, {}, "int8")
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    feeds = {"x": np.sign(pictures(3).arrays["x"]).astype("float32") * 4}
    exported = tmp_path / "out" / "model.onnx"
    optimised, _ = run_profiled(exported, feeds, tmp_path)
    np.testing.assert_allclose(
        optimised[0], run_unoptimised(exported, feeds)[0], rtol=0.02, atol=5e-3
    )


def test_formats_that_onnxruntime_lacks_are_refused_by_name(tmp_path: Path) -> None:
    plan, model = plan_of(branching_net(), tmp_path, {}, "nvfp4")
    with pytest.raises(
        PlanError, match=r"'stem' in nvfp4: .*no kernels for 4-bit floats.*\[no-fp4: .*; nearest: "
    ):
        export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("between", ["HardSwish", "Sigmoid", "LeakyRelu", "Relu", "add", "scale"])
def test_weights_of_layers_that_compute_in_fp32_are_not_rounded_again(
    tmp_path: Path, between: str
) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((8, 3, 1, 1)).astype("float32"),
        "w1": rng.standard_normal((8, 8, 1, 1)).astype("float32"),
        "w2": rng.standard_normal((8, 8, 4, 4)).astype("float32") / 8,
        "w3": rng.standard_normal((4, 8, 1, 1)).astype("float32"),
        "w4": rng.standard_normal((8, 8, 1, 1)).astype("float32"),
        "c": rng.standard_normal((1, 8, 1, 1)).astype("float32"),
    }
    weights["w1"] *= np.exp(rng.standard_normal((8, 1, 1, 1)) * 2).astype("float32")
    node = helper.make_node
    behind = {"add": ("Add", ["b", "c"]), "scale": ("Mul", ["b", "c"])}.get(between)
    nodes = [
        node("Conv", ["x", "w0"], ["a"], "first"),
        node("Conv", ["a", "w1"], ["b"], "second"),
        node(*behind, ["s"], "between") if behind else node(between, ["b"], ["s"], "between"),
        node("Relu", ["s"], ["r"], "relu"),
        node("Conv", ["r", "w4"], ["v"], "third"),
        node("ConvTranspose", ["v", "w2"], ["t"], "up", strides=[2, 2]),
        node("Relu", ["t"], ["u"], "relu_up"),
        node("Conv", ["u", "w3"], ["y"], "last"),
    ]
    net = build(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 4, "h", "w"]}, weights)
    plan, model = plan_of(net, tmp_path, {}, "int8")
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    exported, feeds = tmp_path / "out" / "model.onnx", {"x": pictures(2).arrays["x"]}
    optimised, _ = run_profiled(exported, feeds, tmp_path)
    plain = run_unoptimised(exported, feeds)[0]
    assert np.linalg.norm(optimised[0] - plain) < 2e-3 * np.linalg.norm(plain)
