"""docs/plan-format.md is enough: a reader of less than 150 lines without mpsearch rebuilds every weight bit for bit."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx.numpy_helper import from_array

from mpsearch.data.batches import make_batches
from mpsearch.export.planned import planned_weights
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.changes import changes_of
from mpsearch.plan.files import plan_schema, read_plan, write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support import plan_reader
from tests.support.changed_plans import changed_plan, every_kind, some_data
from tests.support.graph_models import model, save

ROOT = Path(__file__).resolve().parents[2]
SCHEMES = [
    *("nvfp4", "mxfp4", "fp8", "fp8_tensor", "fp8_block", "int8", "w4a16", "w4a16_g32"),
    *("fp8_2of4", "nvfp4_2of4", "nvfp4_4of8", "mxfp8", "bf16", "fp16"),
]


def check(plan: Plan, model: Path, folder: Path) -> int:
    """Write the plan, read it with the plain reader, compare each weight; return how many."""
    write_plan(plan, folder / "plan.json")
    found = plan_reader.read_weights(model, folder / "plan.json")
    plan = read_plan(folder / "plan.json")
    graph = import_onnx(model, shapes=plan.shapes)
    weights, schemes = planned_weights(graph, changes_of(plan, graph)), plan_schemes(plan, graph)
    compared = 0
    for i, layer in enumerate(graph.layers):
        for j, gemm in enumerate(layer.gemms):
            if gemm.has_weight:
                expected = weights(i, j, schemes[i]).dequantize().numpy()
                own = found[layer.name, gemm.right.source]
                assert own.dtype == np.float32
                np.testing.assert_array_equal(own, expected, err_msg=layer.name)
                compared += 1
    return compared


def test_the_reader_is_short_and_knows_nothing_of_mpsearch() -> None:
    path = Path(plan_reader.__file__)
    assert len(path.read_text().splitlines()) < 150
    tree = ast.parse(path.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    plain = {"hashlib", "json", "math", "pathlib", "typing"}
    assert roots - plain == {"ml_dtypes", "numpy", "onnx", "safetensors"}


@pytest.mark.parametrize("name", SCHEMES)
def test_it_rebuilds_every_weight_of_a_plan(tmp_path: Path, name: str) -> None:
    path = save(every_kind(groups=2), tmp_path)
    names = dict.fromkeys(("fp16", name))
    space = SearchSpace("s", tuple(map(find_scheme, names)))
    simulator = Simulator(import_onnx(path), space, some_data())
    last = len(names) - 1
    chosen = tuple(last if ok else 0 for ok in simulator.allowed[:, last])
    assert any(chosen) or name == "fp16"
    assert check(make_plan(Point(chosen, {}), simulator), path, tmp_path) == 10


@pytest.mark.parametrize("name", ["nvfp4", "int8", "fp8_2of4", "w4a16_g32", "mxfp4"])
def test_it_rebuilds_every_weight_of_a_recovered_plan(tmp_path: Path, name: str) -> None:
    path, _, _, _, plan = changed_plan(tmp_path, name)
    assert plan.requires == ("weights",)
    assert check(plan, path, tmp_path) == 10


def test_it_rebuilds_weights_that_were_recovered_before_they_are_rounded(tmp_path: Path) -> None:
    path = save(every_kind(), tmp_path)
    recovered = replace(find_scheme("fp8_2of4"), recovery="obs")
    space = SearchSpace("s", (find_scheme("fp16"), recovered))
    simulator = Simulator(import_onnx(path), space, some_data())
    chosen = tuple(int(ok) for ok in simulator.allowed[:, 1])
    assert check(make_plan(Point(chosen, {}), simulator), path, tmp_path) == 10


def test_a_normalisation_is_folded_as_the_document_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 8, 3, 3)).astype(np.float32)
    statistics = {n: rng.uniform(0.5, 2, 16).astype(np.float32) for n in ("g", "b", "m", "v")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "conv"),
        helper.make_node("BatchNormalization", ["h", *statistics], ["y"], "norm", epsilon=0.01),
    ]
    tensors = [from_array(a, n) for n, a in {"w": weight, **statistics}.items()]
    path = save(model(nodes, {"x": ["n", 8, 4, 4]}, ["y"], tensors), tmp_path)
    space = SearchSpace("s", tuple(map(find_scheme, ("fp16", "nvfp4"))))
    batches = make_batches({"x": rng.standard_normal((4, 8, 4, 4)).astype(np.float32)})
    simulator = Simulator(import_onnx(path), space, batches)
    plan = make_plan(Point((1,), {}), simulator)
    write_plan(plan, tmp_path / "plan.json")
    scale = statistics["g"].astype(np.float64) / np.sqrt(statistics["v"] + np.float64(0.01))
    folded = (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    (tmp_path / "folded").mkdir()
    stated = [from_array(folded, "w")]
    other = save(model(nodes[:1], {"x": ["n", 8, 4, 4]}, ["h"], stated), tmp_path / "folded")
    found = plan_reader.read_weights(other, tmp_path / "plan.json")["conv", "w"]
    weights = planned_weights(simulator.graph)
    expected = weights(0, 0, find_scheme("nvfp4")).dequantize().numpy()
    np.testing.assert_array_equal(found, expected)


def test_the_document_names_every_field_of_the_file() -> None:
    text = (ROOT / "docs" / "plan-format.md").read_text()
    schema = plan_schema()
    fields = dict.fromkeys(schema["$defs"]["PlanContent"]["properties"])
    for definition in ("Spec", "Scheme", "Site", "Decision", "CalibratedRange", "Range", "Covered"):
        fields |= dict.fromkeys(schema["$defs"][definition]["properties"])
    missing = [name for name in fields if f"`{name}`" not in text]
    assert not missing
