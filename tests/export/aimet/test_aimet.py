"""AIMET's encodings say what was simulated: applied to the model beside them, they give the simulation's outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.errors import PlanError
from mpsearch.export.aimet.export import export
from mpsearch.export.planned import planned_weights
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.match import plan_assignment
from mpsearch.plan.score import simulate_plan
from mpsearch.registry import find
from mpsearch.schemes import Scheme, Spec, find_scheme
from mpsearch.simulate.changes import Changes
from tests.support.changed_plans import change_weight

ASYMMETRIC = Scheme("int8_asymmetric", Spec("int8", "channel"), Spec("int8", symmetric=False))
NAMES = ("fp16", "int8", "w4a16_g32", "w8a16_g32", "int8_2of4", "int8_asymmetric")


def write_model(path: Path) -> None:
    """A convolution, a matrix in the middle, a Gemm, and one tensor that two layers read."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["h0"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h0"], ["r0"], "relu"),
        helper.make_node("Flatten", ["r0"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "w1"], ["m1"], "one"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["m2"], "two", transB=1),
        helper.make_node("Add", ["m1", "m2"], ["y"], "sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4, 4, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])],
        [
            weight("w0", 8, 4, 3, 3),
            weight("b0", 8),
            weight("w1", 128, 8),
            weight("w2", 8, 128),
            weight("b2", 8),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, mp.Simulator]:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    write_model(path)
    x = np.random.default_rng(1).standard_normal((16, 4, 4, 4)).astype(np.float32)
    own = {"int8_asymmetric": ASYMMETRIC}
    w8 = Scheme(
        "w8a16_g32",
        Spec("int8", "group", block_shape=(1, 32), scale_format="fp16"),
        find_scheme("w4a16_g32").activation,
    )
    own["w8a16_g32"] = w8
    schemes = tuple(own.get(name) or find_scheme(name) for name in NAMES)
    space = mp.SearchSpace("s", schemes)
    return path, mp.Simulator(import_onnx(path), space, make_batches({"x": x}))


def plan_of(simulator: mp.Simulator, **schemes: str) -> Any:
    graph = simulator.graph
    chosen = [schemes.get(graph.layers[g.layers[0]].name, "fp16") for g in graph.groups]
    point = mp.Point(tuple(NAMES.index(name) for name in chosen), {})
    return mp.make_plan(point, simulator)


def fake_quantize(x: NDArray[np.float32], entry: dict[str, Any]) -> NDArray[np.float32]:
    """``aimet_onnx``'s arithmetic of an encoding, in numpy."""
    bits = int(entry["output_dtype"].removeprefix("int"))
    scale = np.array(entry["y_scale"], np.float32)
    zero = np.array(entry.get("y_zero_point", np.zeros_like(scale)), np.float32)
    if "block_size" in entry:
        scale, zero = (np.repeat(v, entry["block_size"], entry["axis"]) for v in (scale, zero))
    elif "axis" in entry:
        shape = [1] * x.ndim
        shape[entry["axis"]] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    codes = np.clip(np.rint(x / scale) + zero, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return ((codes - zero) * scale).astype(np.float32)


def run_encoded(folder: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a consumer of the encodings computes: weights rounded, Identity nodes that have one rounding."""
    model = onnx.load(folder / "model.onnx")
    content = json.loads((folder / "model.encodings").read_text())
    assert content["version"] == "2.0.0"
    entries = {entry["name"]: entry for entry in content["encodings"]}
    for tensor in model.graph.initializer:
        entry = entries.pop(tensor.name, None)
        if entry is not None:
            values = numpy_helper.to_array(tensor)
            rounded = fake_quantize(values, entry)
            np.testing.assert_array_equal(rounded, values)  # they stand on the grid
    nodes = []
    for node in model.graph.node:
        entry = entries.pop(node.output[0], None)
        if entry is None:
            nodes.append(node)
            continue
        assert node.op_type == "Identity"
        name, zero = node.name, np.int8(entry.get("y_zero_point", 0))
        for part, value in (("s", np.float32(entry["y_scale"])), ("z", zero)):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name + part))
        scales = [name + "s", name + "z"]
        nodes += [
            helper.make_node("QuantizeLinear", [node.input[0], *scales], [name + "q"]),
            helper.make_node("DequantizeLinear", [name + "q", *scales], [node.output[0]]),
        ]
    assert not entries  # every encoding speaks of a tensor of the model
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(
    "schemes",
    [
        {"conv": "int8", "one": "int8"},
        {"conv": "int8_asymmetric", "one": "w4a16_g32"},
        {"conv": "int8_2of4", "one": "w8a16_g32"},
    ],
)
def test_the_encodings_give_what_was_simulated(
    schemes: dict[str, str], simulator: tuple[Path, mp.Simulator], tmp_path: Path
) -> None:
    _, simulated = simulator
    plan = plan_of(simulated, **schemes, two=schemes["one"])
    weights = planned_weights(simulated.graph, Changes())  # past the target's list of schemes
    export(plan, simulated.graph, weights, tmp_path)
    x = np.random.default_rng(2).standard_normal((8, 4, 4, 4)).astype(np.float32)
    found = run_encoded(tmp_path, x)
    graph, space = simulated.graph, simulated.space
    chosen = {decision.site.node: decision.scheme for decision in plan.decisions}
    names = [chosen[graph.layers[group.layers[0]].name] for group in graph.groups]
    wanted = simulated.run({"x": x}, np.array([space.names.index(name) for name in names]))["y"]
    # the consumer computes in fp32 where the simulation rounds outputs to fp16
    assert np.abs(found - wanted.numpy()).max() < 4e-3 * np.abs(wanted.numpy()).max()


def test_weights_and_biases_that_a_plan_changes_are_the_exported_ones(
    simulator: tuple[Path, mp.Simulator], tmp_path: Path
) -> None:
    path, simulated = simulator
    graph, plan = simulated.graph, plan_of(simulated, conv="int8", one="int8", two="int8")
    changed = change_weight(graph, 0, 0, plan.schemes["int8"])
    bias = torch.linspace(-1, 1, 8)
    changes = Changes({(0, 0): changed}, dict.fromkeys(range(3), bias))
    own = bring_changes(plan, graph, changes)
    x = np.ones((2, 4, 4, 4), np.float32)
    outputs = []
    for one, name in ((plan, "plain"), (own, "own")):
        mp.export_plan(one, path, tmp_path / name, target="aimet")
        outputs.append(run_encoded(tmp_path / name, x))
    tensors = onnx.load(tmp_path / "own" / "model.onnx").graph.initializer
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    np.testing.assert_array_equal(weights["mpsearch/conv/w0"], changed.dequantize().numpy())
    run = simulate_plan(own, graph, make_batches({"x": x}))
    chosen = plan_assignment(own, run.graph, run.space)
    wanted = run.run({"x": x}, chosen)["y"].numpy()
    assert np.abs(outputs[1] - wanted).max() < 4e-3 * np.abs(wanted).max()
    assert np.abs(outputs[0] - wanted).max() > 0.1 * np.abs(wanted).max()


def test_floats_with_scales_and_live_ranges_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(path)
    graph, can_write = import_onnx(path), find("export_limits", "aimet")
    conv = graph.layers[0]
    for name in ("fp8", "nvfp4", "mxfp4", "int8_dynamic", "bf16", "fp4"):
        assert "AIMET's encodings have no words for it" in can_write(graph, conv, find_scheme(name))
    assert "groups are for matrices" in can_write(graph, conv, find_scheme("w4a16_g32"))
    assert "`K % 64 == 0`" not in can_write(graph, graph.layers[1], find_scheme("w4a16_g64"))
    with pytest.raises(PlanError, match="`K"):
        raise PlanError(can_write(graph, graph.layers[1], _group(48)))


def _group(size: int) -> Scheme:
    weight = Spec("int4", "group", block_shape=(1, size), scale_format="fp16")
    return Scheme("odd", weight, find_scheme("fp16").activation)
