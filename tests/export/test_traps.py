"""Traps of runtimes: each is shown to exist in the version that is installed, and an export not to fall into it.

Where a runtime mends one, its first assertion fails: then the lowering that works around it can go. The reciprocal global
scale of checkpoints has its test in ``checkpoint/test_compressed_tensors.py``, codes that saturate and weights that
are rounded again theirs in ``onnxruntime/test_export.py``, functions that OpenVINO does not expand theirs in
``openvino/test_export.py``.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.export.export_plan import export_plan
from mpsearch.plan.plan import Plan
from mpsearch.verify.verification import Verification
from mpsearch.verify.verify_plan import verify_plan
from tests.support.integer_models import pictures, plan_of, run_profiled
from tests.support.torch_models import Array, build

E4M3 = ml_dtypes.float8_e4m3fn
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")


def by_hand(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, Array],
    shape: list[int],
    folder: Path,
    kinds: Mapping[str, int] = {},
) -> Path:
    """A model of one input ``x`` and one output ``y``, written."""
    tensors = [
        helper.make_tensor(name, kinds[name], values.shape, values.reshape(-1))
        if name in kinds
        else numpy_helper.from_array(np.asarray(values), name)
        for name, values in weights.items()
    ]
    ends = (
        helper.make_tensor_value_info("x", 1, shape),
        helper.make_tensor_value_info("y", 1, None),
    )
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    path = folder / "by_hand.onnx"
    onnx.save(model, path)
    return path


def run(path: Path, x: Array, *, optimise: bool, accuracy: str = "") -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimise:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    if accuracy:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", accuracy)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": x})[0]
    return found


def distance(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def relu_net() -> onnx.ModelProto:
    """Convolutions with Relus between, a bare MatMul and a Gemm at the end."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "first", pads=[1] * 4),
        node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1"], ["c1"], "second"),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "third"),
        node("GlobalAveragePool", ["c2"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("MatMul", ["f", "w3"], ["h"], "bare"),
        node("Gemm", ["h", "w4", "b4"], ["y"], "head"),
    ]
    weights = {
        **{"w0": normal(16, 3, 3, 3), "b0": normal(16), "w1": normal(16, 16, 1, 1)},
        **{"w2": normal(32, 16, 1, 1), "w3": normal(32, 32), "w4": normal(32, 5), "b4": normal(5)},
    }
    return build(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, weights)


def exported(
    folder: Path, layers: Mapping[str, str], other: str, target: str = "onnxruntime"
) -> tuple[Plan, Path]:
    plan, model = plan_of(relu_net(), folder, layers, other)
    export_plan(plan, model, folder / "out", target=target)
    return plan, model


def verified(folder: Path, plan: Plan, model: Path, runtime: str) -> Verification:
    return verify_plan(plan, model, folder / "out", pictures(), runtime=runtime)


def test_relu_before_fp8_with_a_zero_point_is_deleted_by_onnxruntime(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Relu", ["x"], ["r"], "relu"),
        node("QuantizeLinear", ["r", "s", "z"], ["q"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], "d"),
    ]
    weights = {"s": np.float32(0.01), "z": np.zeros((), E4M3)}
    path = by_hand(nodes, weights, [64], tmp_path)
    x = normal(64)
    assert (run(path, x, optimise=False) >= 0).all()
    assert (run(path, x, optimise=True) < 0).any(), "onnxruntime keeps the Relu now"
    plan, model = exported(tmp_path, {}, "fp8")
    found = verified(tmp_path, plan, model, "onnxruntime")
    assert found.ok, str(found)
    assert found.deployed is not None
    assert found.deployed.agrees


def test_fp8_into_a_bare_matmul_is_an_invalid_graph_in_onnxruntime(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], "q", output_dtype=TensorProto.FLOAT8E4M3FN),
        node("DequantizeLinear", ["q", "s"], ["d"], "d"),
        node("DequantizeLinear", ["w", "s"], ["v"], "v"),
        node("MatMul", ["d", "v"], ["m"], "bare"),
        node("QuantizeLinear", ["m", "s"], ["o"], "o", output_dtype=TensorProto.FLOAT8E4M3FN),
        node("DequantizeLinear", ["o", "s"], ["y"], "e"),
    ]
    weights = {"s": np.float32(0.01), "w": (normal(16, 8) * 100).astype(E4M3)}
    path = by_hand(nodes, weights, [4, 16], tmp_path)
    assert np.isfinite(run(path, normal(4, 16), optimise=False)).all()
    with pytest.raises(Exception, match="QLinearMatMul"):  # has no base of its own
        run(path, normal(4, 16), optimise=True)
    plan, model = exported(tmp_path, {"bare": "fp8", "head": "fp8"}, "fp32")
    found = verified(tmp_path, plan, model, "onnxruntime")
    assert found.deployed is not None
    assert not found.deployed.refused


def test_an_fp32_layer_between_int8_ones_is_promoted_by_onnxruntime(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        node("Conv", ["d", "w"], ["c"], "plain"),
        node("QuantizeLinear", ["c", "s", "z"], ["o"], "o"),
        node("DequantizeLinear", ["o", "s", "z"], ["y"], "e"),
    ]
    weights = {"s": np.float32(0.02), "z": np.uint8(128), "w": normal(8, 3, 1, 1)}
    path = by_hand(nodes, weights, [1, 3, 8, 8], tmp_path)
    _, kernels = run_profiled(path, {"x": normal(1, 3, 8, 8)}, tmp_path)
    assert "QLinearConv" in kernels, "onnxruntime leaves fp32 weights alone now"
    plan, model = exported(tmp_path, {"first": "int8", "third": "int8"}, "fp32")
    found = verified(tmp_path, plan, model, "onnxruntime")
    assert found.ok, str(found)
    assert found.deployed is not None
    assert not found.deployed.promoted
    assert found.deployed.kernels["second"] == "Conv"


def test_int4_products_round_activations_in_onnxruntime_by_default(tmp_path: Path) -> None:
    node = helper.make_node
    codes = RNG.integers(-7, 8, (64, 32)).astype(np.int8)
    weights = {"w": codes, "s": np.full((2, 32), 0.01, np.float32)}
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["v"], "v", axis=0, block_size=32),
        node("MatMul", ["x", "v"], ["y"], "product"),
    ]
    path = by_hand(nodes, weights, [4, 64], tmp_path, {"w": TensorProto.INT4})
    x = normal(4, 64)
    exact = x @ (codes.astype(np.float32) * np.float32(0.01))
    assert distance(run(path, x, optimise=True), exact) > 1e-3, "exact by default now"
    assert distance(run(path, x, optimise=True, accuracy="1"), exact) < 1e-5
    plan, model = exported(tmp_path, {"bare": "w4a16_g32", "head": "w4a16_g32"}, "fp32")
    found = verified(tmp_path, plan, model, "onnxruntime")
    assert found.ok, str(found)
    assert found.deployed is not None
    assert found.deployed.whole is not None
    assert found.deployed.kernels["bare"] == "MatMulNBits"
    x = pictures().arrays["x"]
    default, plain = (run(tmp_path / "out" / "model.onnx", x, optimise=o) for o in (True, False))
    assert distance(default, plain) < 1e-5


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_convolution_and_its_relu_run_on_integers_only_with_unsigned_codes(
    tmp_path: Path, kind: type
) -> None:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        node("DequantizeLinear", ["w", "s", "zw"], ["v"], "v"),
        node("Conv", ["d", "v"], ["c"], "conv"),
        node("Relu", ["c"], ["r"], "relu"),
        node("QuantizeLinear", ["r", "s", "z"], ["o"], "o"),
        node("DequantizeLinear", ["o", "s", "z"], ["y"], "e"),
    ]
    weights = {
        **{"s": np.float32(0.02), "z": np.zeros((), kind), "zw": np.int8(0)},
        "w": RNG.integers(-127, 128, (8, 3, 1, 1)).astype(np.int8),
    }
    path = by_hand(nodes, weights, [1, 3, 8, 8], tmp_path)
    _, kernels = run_profiled(path, {"x": np.abs(normal(1, 3, 8, 8))}, tmp_path)
    assert ("QLinearConv" in kernels) == (kind is np.uint8)


def test_exports_lower_int8_as_each_target_wants_it(tmp_path: Path) -> None:
    exported(tmp_path, {}, "int8")
    feeds = {"x": pictures().arrays["x"]}
    _, kernels = run_profiled(tmp_path / "out" / "model.onnx", feeds, tmp_path)
    assert Counter(kernels)["QLinearConv"] == 2  # the third is read by a pool
    assert "Relu" not in kernels
    exported(tmp_path, {}, "int8", target="tensorrt")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert not [t for t in model.graph.initializer if t.data_type == TensorProto.UINT8]


def test_the_profiler_calls_fused_kernels_by_the_nodes_they_were_made_of(tmp_path: Path) -> None:
    plan, model = exported(tmp_path, {}, "fp32")
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "named")
    path = tmp_path / "out" / "model.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": pictures().arrays["x"]})
    events = json.loads(Path(session.end_profiling()).read_text())
    named = {
        e["name"].removesuffix("_kernel_time"): e["args"]["op_name"]
        for e in events
        if e["cat"] == "Node"
    }
    assert not {"Conv", "Gemm"} >= {*named}, "names are kernels now"
    assert named["bare"] in ("MatMul", "Gemm")
    found = verified(tmp_path, plan, model, "onnxruntime").deployed
    assert found is not None
    assert set(found.kernels) == {"first", "second", "third", "bare", "head"}  # all were told


def openvino_run(path: Path, x: Array, settings: Mapping[str, str]) -> tuple[Array, Any]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", dict(settings))
    return compiled({"x": x})[0], compiled


def test_openvino_rounds_to_fp8_through_fp16(tmp_path: Path) -> None:
    node = helper.make_node
    kind = TensorProto.FLOAT8E4M3FN
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], "q", output_dtype=kind),
        node("DequantizeLinear", ["q", "s"], ["y"], "d"),
    ]
    x = (RNG.standard_normal(200_000) * 100).clip(-448, 448).astype(np.float32)
    path = by_hand(nodes, {"s": np.float32(1)}, [len(x)], tmp_path)
    found, _ = openvino_run(path, x, {"INFERENCE_PRECISION_HINT": "f32"})
    once = x.astype(E4M3).astype(np.float32)
    twice = x.astype(np.float16).astype(E4M3).astype(np.float32)
    assert 0 < (found != once).sum() < 2000, "it rounds once now"
    np.testing.assert_array_equal(found, twice)
    plan, model = exported(tmp_path, {}, "fp8", target="openvino")
    proven = verified(tmp_path, plan, model, "openvino")
    assert proven.ok, str(proven)


def test_the_settings_beside_an_export_hold_openvino_to_fp32(tmp_path: Path) -> None:
    exported(tmp_path, {}, "w4a16_g32", target="openvino")
    settings = json.loads((tmp_path / "out" / "openvino_config.json").read_text())["CPU"]
    x = pictures().arrays["x"][:2]
    _, compiled = openvino_run(tmp_path / "out" / "model.onnx", x, settings)
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 0
    _, default = openvino_run(tmp_path / "out" / "model.onnx", x, {})
    assert int(default.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) != 0, "off by default now"


def test_openvino_takes_no_short_last_block(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["v"], "v", axis=0, block_size=16),
        node("MatMul", ["x", "v"], ["y"], "product"),
    ]
    weights = {"w": RNG.integers(-7, 8, (24, 8)).astype(np.int8), "s": np.ones((2, 8), np.float32)}
    path = by_hand(nodes, weights, [4, 24], tmp_path)
    with pytest.raises(RuntimeError):
        openvino_run(path, normal(4, 24), {})
    plan, model = exported(tmp_path, {"first": "nvfp4"}, "fp32", target="openvino")  # 3 channels
    found = verified(tmp_path, plan, model, "openvino")
    assert found.ok, str(found)


def test_iree_does_not_saturate_fp8(tmp_path: Path) -> None:
    pytest.importorskip("iree.compiler")
    from mpsearch.runtimes.iree import IreeSession, open_session

    node = helper.make_node
    kind = TensorProto.FLOAT8E4M3FN
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], "q", output_dtype=kind),
        node("DequantizeLinear", ["q", "s"], ["y"], "d"),
    ]
    path = by_hand(nodes, {"s": np.float32(0.5)}, [4], tmp_path)
    x = np.array([1, -3000, 3000, 0.3], np.float32)
    plain = IreeSession(onnx.load(path)).run({"x": x}, ["y"])["y"]
    assert np.isnan(plain[1:3]).all(), "it saturates now"
    right = open_session(path).run({"x": x}, ["y"])["y"]
    np.testing.assert_array_equal(right[:3], [1, -224, 224])
