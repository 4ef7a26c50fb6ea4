"""An export for onnxruntime runs int8 on integer kernels with default optimisations, and computes what the plan says."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

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


def load_overrides(path: Path) -> dict[str, list[dict[str, object]]]:
    """As the documentation says."""
    return {
        name: [
            entry
            | {
                "quant_type": QuantType.from_string(entry["quant_type"]),
                "scale": np.array(entry["scale"], np.float32),
                "zero_point": np.array(entry["zero_point"], np.uint8),
            }
            for entry in entries
        ]
        for name, entries in json.loads(path.read_text()).items()
    }


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter([{"x": pictures(n=4).arrays["x"]}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def test_onnxruntimes_own_quantiser_takes_the_overrides(tmp_path: Path) -> None:
    plan, model = plan_of(branching_net(), tmp_path, {"right": "fp32"}, "int8")
    files = export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    path = tmp_path / "out" / "tensor_quant_overrides.json"
    assert path in files
    overrides = load_overrides(path)
    made = tmp_path / "quantised.onnx"
    logging.disable(logging.WARNING)  # it advises to fold first
    try:
        quantize_static(
            model,
            made,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=["right"],
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            extra_options={"TensorQuantOverrides": overrides},
        )
    finally:
        logging.disable(logging.NOTSET)
    found = onnx.load(made)
    tensors = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    scales = {
        node.input[0]: float(tensors[node.input[1]])
        for node in found.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in overrides
    }
    expected = {name: float(entries[0]["scale"]) for name, entries in overrides.items()}
    assert scales
    assert scales == {name: expected[name] for name in scales}
    for name in ("w1", "w4", "w7"):
        np.testing.assert_array_equal(
            tensors[f"{name}_scale"], [entry["scale"] for entry in overrides[name]]
        )
        codes = tensors[f"{name}_quantized"]
        ours = next(
            numpy_helper.to_array(t)
            for t in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
            if t.name.startswith(f"mpsearch/{name}/int8/codes")
        )
        # fp32 convolutions on codes store signed ones
        np.testing.assert_array_equal(
            codes.astype(int), ours.astype(int) + 128 * (ours.dtype == np.int8)
        )


def test_a_plan_without_int8_has_no_overrides(tmp_path: Path) -> None:
    plan, model = plan_of(branching_net(), tmp_path, {}, "fp16")
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    assert not (tmp_path / "out" / "tensor_quant_overrides.json").exists()


@pytest.mark.parametrize("scheme", ["w4a16_g32", "w4a16", "w8a16"])
def test_integers_in_blocks_are_multiplied_as_they_are_stored(tmp_path: Path, scheme: str) -> None:
    plan, model = plan_of(branching_net(), tmp_path, {}, scheme)
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    exported = tmp_path / "out" / "model.onnx"
    stored = onnx.load(exported)
    onnx.checker.check_model(stored, full_check=True)
    packed = [node for node in stored.graph.node if node.op_type == "MatMulNBits"]
    assert {node.name for node in packed} == {"hidden", "head", "value"}
    assert all(a.i == 1 for n in packed for a in n.attribute if a.name == "accuracy_level")
    assert not [t for t in stored.graph.initializer if t.data_type == 1 and len(t.dims) > 1]
    found = verify_plan(plan, model, tmp_path / "out", pictures(n=64), runtime="onnxruntime")
    assert found.ok, str(found)
    assert found.deployed is not None
    assert Counter(found.deployed.kernels.values())["MatMulNBits"] == 3
