"""Models whose names reach elsewhere or break lines are exported as they are, or refused; nothing is written outside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import MpsearchError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.registry import list_names
from mpsearch.schemes import find_scheme
from mpsearch.simulate.changes import Changes
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.verify_plan import verify_plan
from tests.support.changed_plans import change_weight
from tests.support.mutations import check_one_line, snapshot
from tests.support.npu_reader import read_export

NAMES = (
    *("../../x", "/etc/passwd", "C:\\x", "a::b", "codes::a", "it's", 'so "said"', "line\nbreak"),
    *("", " ", "..", "$(touch x)", "%s{0}", "é漢字", "x" * 10_000, "graph.onnx", "plan.json"),
)
SIZE = 16


def chain() -> onnx.ModelProto:
    """One product a name: of the node, of its weight, and of the value between."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "input\n../x"
    for i, name in enumerate(NAMES):
        array = rng.standard_normal((SIZE, SIZE)).astype(np.float32) / 4
        weights.append(numpy_helper.from_array(array, f"{name}/w{i}"))
        output = f"{name}:{i}"
        nodes.append(helper.make_node("MatMul", [value, f"{name}/w{i}"], [output], name))
        value = output
    shape = ["n", SIZE]
    graph = helper.make_graph(
        nodes,
        "../../graph",
        [helper.make_tensor_value_info("input\n../x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Plan]:
    """A tree, the model deep inside of it, and a recovered plan of it."""
    root = tmp_path_factory.mktemp("names")
    folder = root / "a" / "b"
    folder.mkdir(parents=True)
    model = folder / "m.onnx"
    onnx.save(chain(), model)
    x = np.random.default_rng(1).standard_normal((4, SIZE)).astype(np.float32)
    space = SearchSpace("s", (find_scheme("fp16"), find_scheme("fp8")))
    batches = make_batches({"input\n../x": x})
    simulator = Simulator(import_onnx(model), space, batches)
    plan = make_plan(Point((1,) * len(simulator.groups), {}), simulator)
    schemes = plan_schemes(plan, simulator.graph)
    weights = {(i, 0): change_weight(simulator.graph, i, 0, s) for i, s in enumerate(schemes)}
    return root, model, bring_changes(plan, simulator.graph, Changes(weights), recovery=("gptq",))


@pytest.mark.parametrize("target", list_names("exporters"))
def test_nothing_is_written_outside_of_an_export(
    case: tuple[Path, Path, Plan], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, model, plan = case
    monkeypatch.chdir(model.parent)
    out = model.parent / f"out-{target}"
    before = snapshot(root, out)
    try:
        export_plan(plan, model, out, target=target)
    except MpsearchError as error:
        check_one_line(str(error).split("\n")[0])
        assert not out.exists()
        return
    finally:
        assert snapshot(root, out) == before
    assert read_plan(out / "plan.json") == plan
    assert all(path.resolve().is_relative_to(out.resolve()) for path in out.rglob("*"))
    if target == "npu":
        content, tensors = read_export(out)
        assert {layer["node"] for layer in content["layers"]} == {
            d.site.node for d in plan.decisions
        }
        assert len(tensors) == len(NAMES)
    if target in ("onnx", "npu"):
        x = np.random.default_rng(2).standard_normal((2, SIZE)).astype(np.float32)
        found = verify_plan(plan, model, out, make_batches({"input\n../x": x}))
        assert found.ok, found.difference[:500]


def test_names_survive_the_plans_file(case: tuple[Path, Path, Plan], tmp_path: Path) -> None:
    plan = case[2]
    write_plan(replace(plan, fallback="safer plan.json"), tmp_path / "plan.json")
    nodes = [d.site.node for d in read_plan(tmp_path / "plan.json").decisions]
    assert nodes == [name or f":{i}" for i, name in enumerate(NAMES)]
