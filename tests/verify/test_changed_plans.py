"""Everything that recovery, training and transforms change is exported, and proven layer by layer in real runtimes."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.runtimes.session import find_model
from mpsearch.schemes import find_scheme
from mpsearch.simulate.changes import Changes
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.verify_plan import verify_plan
from tests.support.changed_plans import change_weight, changed_plan, some_data
from tests.support.graph_models import model, noise, save, tensor
from tests.support.stored import stored_size

RUNTIMES = ["reference"] + (["openvino"] if find_spec("openvino") else [])
SCHEMES = [
    *("fp16", "fp8", "fp8_tensor", "fp8_dynamic", "fp8_block", "int8", "nvfp4", "nvfp4a16"),
    *("w4a16_g32", "mxfp4", "mxfp8", "fp4", "fp8_2of4", "nvfp4_2of4", "fp16_4of8"),
]


@pytest.mark.parametrize("name", SCHEMES)
def test_every_changed_layer_is_proven_in_two_runtimes(tmp_path: Path, name: str) -> None:
    path, _, _, _, plan = changed_plan(tmp_path, name)
    write_plan(plan, tmp_path / "plan.json")
    plan = read_plan(tmp_path / "plan.json")
    export_plan(plan, path, tmp_path / "out")
    for runtime in RUNTIMES:
        found = verify_plan(plan, path, tmp_path / "out", some_data(), runtime=runtime)
        assert found.ok, str(found)
        assert len(found.layers) == len(plan.decisions) == 10
        assert max(check.error for check in found.layers) <= 1e-3
        assert not found.unproven


@pytest.mark.skipif("openvino" not in RUNTIMES, reason="the reference fails in such operators")
@pytest.mark.parametrize("name", ["fp8", "nvfp4"])
def test_grouped_transposed_convolutions_are_proven(tmp_path: Path, name: str) -> None:
    path, _, _, _, plan = changed_plan(tmp_path, name, groups=3)
    export_plan(plan, path, tmp_path / "out")
    found = verify_plan(plan, path, tmp_path / "out", some_data(), runtime="openvino")
    assert found.ok, str(found)


@pytest.mark.parametrize("name", ["int8", "fp8", "w4a16_g32"])
def test_changed_plans_are_proven_as_onnxruntime_takes_them(tmp_path: Path, name: str) -> None:
    path, _, _, _, plan = changed_plan(tmp_path, name)
    export_plan(plan, path, tmp_path / "out", target="onnxruntime")
    found = verify_plan(plan, path, tmp_path / "out", some_data(), runtime="onnxruntime")
    assert found.ok, str(found)
    assert len(found.layers) == 10


@pytest.mark.parametrize("base", ["bf16", "fp32"])
def test_changed_plans_are_proven_in_any_base(tmp_path: Path, base: str) -> None:
    path, _, _, _, plan = changed_plan(tmp_path, "fp8", base=base)
    export_plan(plan, path, tmp_path / "out")
    found = verify_plan(plan, path, tmp_path / "out", some_data())
    assert found.ok, str(found)


def test_an_export_without_the_changes_is_found_out_layer_by_layer(tmp_path: Path) -> None:
    path, simulator, chosen, _, plan = changed_plan(tmp_path, "fp8")
    plain = make_plan(Point(tuple(map(int, chosen)), {}), simulator)
    export_plan(plain, path, tmp_path / "out")
    found = verify_plan(plan, path, tmp_path / "out", some_data())
    assert not found.ok
    assert not any(check.ok for check in found.layers)


def test_biases_are_added_where_a_layer_has_none_and_folded_where_it_has_one(
    tmp_path: Path,
) -> None:
    path, _, _, changes, plan = changed_plan(tmp_path, "fp8")
    export_plan(plan, path, tmp_path / "out")
    exported = onnx.load(find_model(tmp_path / "out"))
    nodes = {node.name: node for node in exported.graph.node}
    tensors = {t.name: numpy_helper.to_array(t) for t in exported.graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for layer, (name, own) in enumerate([("conv", "b0"), ("depthwise", ""), ("grouped", "b2")]):
        expected = changes.biases[layer].numpy() + (before[own] if own else 0)
        np.testing.assert_allclose(tensors[nodes[name].input[2]], expected, rtol=1e-6)
    added = [
        node.name for node in nodes.values() if node.op_type == "Add" and "mpsearch" in node.name
    ]
    assert sorted(name.split("/")[1] for name in added) == ["last", "matmul", "scaled_bias"]
    np.testing.assert_array_equal(tensors["gain"], before["gain"] * np.float32(1.25))


def test_the_export_grows_by_the_bytes_that_are_told(tmp_path: Path) -> None:
    path, simulator, _, changes, plan = changed_plan(tmp_path, "fp8")
    plain = bring_changes(plan, simulator.graph, Changes(changes.weights))
    sizes = []
    for i, made in enumerate((plain, plan)):
        export_plan(made, path, tmp_path / f"out{i}")
        exported = onnx.load(find_model(tmp_path / f"out{i}"))
        sizes.append(sum(map(stored_size, exported.graph.initializer)))
    parameters = sum(layer.parameters for layer in simulator.graph.layers)
    told = (plan.coverage.effective_bits - plain.coverage.effective_bits) * parameters / 8
    assert sizes[1] - sizes[0] == pytest.approx(told)


@pytest.mark.parametrize("alike", [True, False])
def test_a_shared_weight_is_stored_once_where_its_layers_change_it_alike(
    tmp_path: Path, alike: bool
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "second"),
    ]
    path = save(model(nodes, {"x": ["n", 32]}, ["y"], [tensor("w", 32, 32)]), tmp_path)
    space = SearchSpace("s", tuple(map(find_scheme, ("fp16", "nvfp4"))), "fp16")
    batches = make_batches({"x": noise(6, 32)}, batch_size=3)
    simulator = Simulator(import_onnx(path), space, batches)
    graph = simulator.graph
    plan = make_plan(Point((1,) * len(simulator.groups), {}), simulator)
    weight = change_weight(graph, 0, 0, space.schemes[1])
    other = weight if alike else change_weight(graph, 1, 0, space.schemes[1])
    made = bring_changes(plan, graph, Changes({(0, 0): weight, (1, 0): other}))
    write_plan(made, tmp_path / "plan.json")
    made = read_plan(tmp_path / "plan.json")
    sizes = []
    for i, each in enumerate((plan, made)):
        export_plan(each, path, tmp_path / f"out{i}")
        stored = onnx.load(find_model(tmp_path / f"out{i}")).graph.initializer
        sizes.append(sum(stored_size(t) for t in stored if t.name.startswith("mpsearch/w/")))
        assert 8 * sizes[-1] / 1024 == pytest.approx(each.coverage.effective_bits)
    assert sizes[1] == sizes[0] * (1 if alike else 2)
    assert verify_plan(made, path, tmp_path / "out1", batches).ok
