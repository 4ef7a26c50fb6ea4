"""An export appears whole or not at all, says what it is, and keeps the names of the user's model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from mpsearch.errors import ModelError, OutputExistsError, PlanError, UnknownNameError
from mpsearch.export.export_plan import export_plan
from mpsearch.export.onnx.canonical import build_canonical
from mpsearch.export.planned import planned_weights
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.files import read_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.schemes import Scheme, find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.verify_plan import verify_plan
from tests.support.torch_models import attention_net, conv_net, images, sentences


def conv_plan(folder: Path, *names: str) -> tuple[Plan, Path]:
    model = folder / "net.onnx"
    onnx.save(conv_net(), model)
    space = SearchSpace("s", tuple(map(find_scheme, dict.fromkeys(("fp16", *names)))))
    simulator = Simulator(import_onnx(model), space, images())
    chosen = tuple(space.index(names[g % len(names)]) for g in range(len(simulator.groups)))
    return make_plan(Point(chosen, {}), simulator), model


def test_an_export_holds_model_and_plan(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "nvfp4", "fp8")
    written = export_plan(plan, model, tmp_path / "out")
    assert [path.name for path in written] == ["model.onnx", "plan.json"]
    assert read_plan(tmp_path / "out" / "plan.json") == plan
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out"]


def test_an_export_is_valid_onnx_of_opset_23_and_keeps_names(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "nvfp4", "fp8")
    export_plan(plan, model, tmp_path / "out")
    made = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert {o.domain: o.version for o in made.opset_import} == {"": 23, "trt": 1}
    assert made.ir_version == 11
    own = {name for node in onnx.load(model).graph.node for name in (node.name, *node.output)}
    assert own <= {name for node in made.graph.node for name in (node.name, *node.output)}
    assert [i.name for i in made.graph.input] == ["x"]
    assert [o.name for o in made.graph.output] == ["y"]


def test_every_node_that_a_decision_made_carries_its_site_and_scheme(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "nvfp4", "fp8")
    export_plan(plan, model, tmp_path / "out")
    made = onnx.load(tmp_path / "out" / "model.onnx")
    sites = {}
    for node in made.graph.node:
        props = {p.key: p.value for p in node.metadata_props}
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"):
            sites[props["mpsearch.site"]] = props["mpsearch.scheme"]
    assert sites == {d.site.node: d.scheme for d in plan.decisions}


def test_weights_are_stored_in_their_own_types(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "nvfp4", "fp8", "int8", "fp16")
    export_plan(plan, model, tmp_path / "out")
    made = onnx.load(tmp_path / "out" / "model.onnx")
    types = {t.name: t.data_type for t in made.graph.initializer}
    assert types["mpsearch/w0/nvfp4/codes_0"] == onnx.TensorProto.FLOAT4E2M1
    assert types["mpsearch/w0/nvfp4/scales_1"] == onnx.TensorProto.FLOAT8E4M3FN
    assert types["mpsearch/w1/fp8/codes_0"] == onnx.TensorProto.FLOAT8E4M3FN
    assert types["mpsearch/w2/int8/codes_0"] == onnx.TensorProto.INT8
    assert types["mpsearch/w3/fp16/weight_0"] == onnx.TensorProto.FLOAT16
    assert not {"w0", "w1", "w2", "w3"} & types.keys()


def test_a_quantised_tensor_is_shared_by_the_layers_that_read_it(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(attention_net(), model)
    graph = import_onnx(model)
    space = SearchSpace("s", tuple(map(find_scheme, ("fp16", "fp8"))))
    simulator = Simulator(graph, space, sentences())
    plan = make_plan(Point((1,) * len(simulator.groups), {}), simulator)
    made = build_canonical(plan, graph, planned_weights(graph))
    quantised = [n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"]
    assert sorted(quantised) == sorted(set(quantised))
    assert "e" in quantised  # read by q, k and v


def test_an_fp32_plan_computes_what_the_model_computes(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(conv_net(), model)
    graph = import_onnx(model)
    space = SearchSpace("s", (find_scheme("fp32"),), "fp32")
    simulator = Simulator(graph, space, images())
    plan = make_plan(Point((0,) * len(simulator.groups), {}), simulator)
    made = build_canonical(plan, graph, planned_weights(graph))
    feeds = {"x": images().arrays["x"]}
    expected = ReferenceEvaluator(onnx.load(model)).run(None, feeds)[0]
    np.testing.assert_allclose(ReferenceEvaluator(made).run(None, feeds)[0], expected, rtol=1e-5)


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "nvfp4")
    out = tmp_path / "out"
    export_plan(plan, model, out)
    other = replace(plan, decisions=())
    export_plan(other, model, out)
    assert read_plan(out / "plan.json") == other
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out"]


@pytest.mark.parametrize("kind", ["file", "folder", "link", "json"])
def test_what_is_no_export_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    plan, model = conv_plan(tmp_path, "fp8")
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        (tmp_path / "else").mkdir()
        out.symlink_to(tmp_path / "else")
    else:
        out.mkdir()
        (out / ("export.json" if kind == "json" else "thesis.txt")).write_text('["mine"]')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputExistsError, match="out must be"):
        export_plan(plan, model, out)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_left_behind_by_an_export_that_fails(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "fp8")
    mxfp6 = replace(find_scheme("mxfp6"), name="fp8")
    with pytest.raises(PlanError, match="'stem' in fp8: ONNX must have a type for e2m3"):
        export_plan(replace(plan, schemes={**plan.schemes, "fp8": mxfp6}), model, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_the_wrong_model_is_refused(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "fp8")
    onnx.save(conv_net(seed=5), model)
    with pytest.raises(PlanError, match="weights that it was made for"):
        export_plan(plan, model, tmp_path / "out")
    onnx.save(attention_net(), model)
    with pytest.raises(PlanError, match="model that it was made for"):
        export_plan(plan, model, tmp_path / "out")
    model.write_text("no model")
    with pytest.raises(ModelError):
        export_plan(plan, model, tmp_path / "out")
    with pytest.raises(UnknownNameError, match="export target"):
        export_plan(plan, model, tmp_path / "out", target="abacus")


def test_a_static_range_that_the_plan_lacks_is_missed(tmp_path: Path) -> None:
    plan, model = conv_plan(tmp_path, "fp8")
    with pytest.raises(PlanError, match="calibrated range is needed for 'x'"):
        export_plan(replace(plan, ranges=()), model, tmp_path / "out")


def test_recovered_weights_come_with_the_plan_and_with_its_export(tmp_path: Path) -> None:
    recovered: Scheme = replace(find_scheme("fp8_2of4"), recovery="obs")
    model = tmp_path / "net.onnx"
    onnx.save(conv_net(), model)
    space = SearchSpace("s", (find_scheme("fp16"), recovered))
    simulator = Simulator(import_onnx(model), space, images())
    plan = make_plan(Point(tuple(int(a) for a in simulator.allowed[:, 1]), {}), simulator)
    assert plan.requires == ("weights",)
    written = export_plan(plan, model, tmp_path / "out")
    assert [path.name for path in written][1:] == ["plan.json", "plan.weights.safetensors"]
    own = read_plan(tmp_path / "out" / "plan.json")
    found = verify_plan(own, model, tmp_path / "out", images(seed=3))
    assert found.ok, str(found)
    assert [check.scheme for check in found.layers].count("fp8_2of4") == 2


def test_a_point_that_takes_what_is_not_allowed_makes_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"'stem' may not take fp8_2of4: `channels % 4 == 0`"):
        conv_plan(tmp_path, "fp8_2of4")
