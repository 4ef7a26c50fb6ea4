"""What `plan lint` says of plans that were spoilt in one way each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import PlanError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.numerics.range import Range
from mpsearch.plan.files import write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import CalibratedRange, Covered, Plan
from mpsearch.plan.weights import hold_weights
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Estimate
from mpsearch.verify.lint import Lint, lint_file, lint_plan
from tests.support.command_line import Mpsearch
from tests.support.graph_models import model, noise, save, tensor

BLOCK = "/layers.0"
SITES = {
    "q": f"{BLOCK}/self_attn/q_proj/MatMul",
    "k": f"{BLOCK}/self_attn/k_proj/MatMul",
    "v": f"{BLOCK}/self_attn/v_proj/MatMul",
    "down": f"{BLOCK}/mlp/down_proj/MatMul",
    "head": "/lm_head/MatMul",
}


def attention_block(seed: int = 0) -> onnx.ModelProto:
    """Projections of one input by modules' names, a product of activations, and a head."""
    node = helper.make_node
    nodes = [
        *(node("MatMul", ["x", f"w{n}"], [n], SITES[n]) for n in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"], f"{BLOCK}/self_attn/MatMul"),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["a"], f"{BLOCK}/self_attn/MatMul_1"),
        node("MatMul", ["a", "wd"], ["d"], SITES["down"]),
        node("MatMul", ["d", "wh"], ["y"], SITES["head"]),
    ]
    rng = np.random.default_rng(seed)
    scales = {"wq": 1.0, "wk": 2.0, "wv": 4.0, "wd": 1.0, "wh": 1.0}
    weights = [
        onnx.numpy_helper.from_array(
            (scale * rng.standard_normal((32, 32))).astype(np.float32) / 6, name
        )
        for name, scale in scales.items()
    ]
    return model(nodes, {"x": ["n", 5, 32]}, ["y"], weights)


Chosen = dict[str, str]
ALL = ("fp16", "fp8", "fp8_tensor", "int8", "nvfp4", "mxfp8", "w4a16_g32", "fp8_dynamic")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Plan, Path]]:
    path = save(attention_block(), tmp_path_factory.mktemp("lint"))
    space = SearchSpace("s", tuple(map(find_scheme, ALL)), "fp16")
    graph = import_onnx(path)
    graph = replace(graph, groups=tuple(replace(graph.groups[0], name=layer.name, layers=(i,), reason="single") for i, layer in enumerate(graph.layers)))  # fmt: skip
    simulator = Simulator(graph, space, make_batches({"x": noise(8, 5, 32)}, batch_size=4))

    def make(**chosen: str) -> tuple[Plan, Path]:
        by_site = {SITES[name]: space.index(scheme) for name, scheme in chosen.items()}
        assignment = tuple(by_site.get(layer.name, 0) for layer in graph.layers)
        measured = {"loss": Estimate(0.1, 0.01)}
        return make_plan(Point(assignment, {}, measured), simulator), path

    return make


def rules(found: Lint, severity: str | None = None) -> set[str]:
    return {one.rule for one in found.findings if severity in (None, one.severity)}


QKV = {"q": "nvfp4", "k": "nvfp4", "v": "nvfp4"}


def test_a_plan_that_a_target_takes_has_no_errors_and_says_what_is_unproven(made: Any) -> None:
    plan, path = made(**QKV)
    found = lint_plan(plan, "vllm", path)
    assert rules(found, "error") <= {"no-exporter"}
    assert {"unproven", "one-tensor-scale", "kv-cache", "fp4-hardware", "few-rows"} <= rules(found)
    assert "vllm is unproven here: needs a GPU" in str(found)
    one = next(one for one in found.findings if one.rule == "one-tensor-scale")
    assert "q_proj" in one.says
    assert "v_proj" in one.says


def test_shards_of_a_fused_layer_in_two_schemes_are_an_error_with_its_source(made: Any) -> None:
    plan, path = made(q="nvfp4", k="fp8", v="nvfp4")
    found = lint_plan(plan, "vllm", path)
    one = next(one for one in found.errors if one.rule == "fused-qkv")
    assert "should_ignore_layer" in one.source
    assert f"{SITES['k']!r} in fp8" in one.says
    assert "fused-qkv" not in rules(lint_plan(plan, "tensorrt", path))


def test_each_error_names_layer_source_and_the_nearest_scheme(made: Any) -> None:
    plan, path = made(down="mxfp8", head="nvfp4")
    found = {one.layer: one for one in lint_plan(plan, "tensorrt_llm", path).errors if one.layer}
    assert found[SITES["down"]].rule == "silent-fallback"
    assert found[SITES["down"]].todo.endswith("nearest scheme that it takes: fp8_tensor")
    assert found[SITES["head"]].rule == "keep-lm-head"
    assert found[SITES["head"]].todo.endswith("nearest scheme that it takes: fp16")
    assert all(one.source for one in found.values())


def spoil(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, **changes)


def batch_dependent(plan: Plan) -> Plan:
    scheme = replace(
        find_scheme("fp8"), activation=replace(find_scheme("fp8").activation, range="dynamic")
    )
    return replace(plan, schemes={**plan.schemes, "fp8": scheme})


@pytest.mark.parametrize(
    ("rule", "change", "target"),
    [
        ("not-measured", lambda p: spoil(p, measured={}), "npu"),
        ("coverage", lambda p: spoil(p, coverage=Covered(9, 100, 1, 1, 8.0, {"a": "b"})), "npu"),
        ("device", lambda p: spoil(p, device="h100", batch=1), "npu"),
        ("fallback", lambda p: spoil(p, fallback="safe.json"), "npu"),
        ("range-missing", lambda p: spoil(p, ranges=()), "npu"),
        (
            "range-zero",
            lambda p: spoil(
                p, ranges=(*p.ranges, CalibratedRange("z", p.ranges[0].spec, Range(0.0, 0.0, 0.0)))
            ),
            "npu",
        ),
        (
            "range-infinite",
            lambda p: spoil(
                p,
                ranges=(CalibratedRange("z", p.ranges[0].spec, Range(float("inf"), 0.0, 0.0)),),
            ),
            "npu",
        ),
        ("batch-dependent", batch_dependent, "openvino"),
        ("redefined", batch_dependent, "openvino"),
        ("base", lambda p: spoil(p, base="bf16", schemes={**p.schemes, "bf16": find_scheme("bf16")}), "onnxruntime"),
        ("other-weights", lambda p: spoil(p, weights_digest="0" * 64), "npu"),
        ("other-model", lambda p: spoil(p, structure_digest="0" * 64), "npu"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_any_plan_is_found_and_nothing_else(
    made: Any, tmp_path: Path, rule: str, change: Callable[[Plan], Plan], target: str
) -> None:
    plan, path = made(q="fp8", k="fp8", v="fp8", down="fp8")
    before = rules(lint_plan(plan, target, path, path=tmp_path / "plan.json"))
    after = rules(lint_plan(change(plan), target, path, path=tmp_path / "plan.json"))
    assert rule not in before
    assert rule in after


def test_tensors_quantised_twice_lonely_layers_and_new_opsets_are_said(made: Any) -> None:
    plan, path = made(q="fp8", k="int8", v="fp8", down="int8")
    found = lint_plan(plan, "openvino", path)
    assert {"quantised-twice", "lonely"} <= rules(found)
    one = next(one for one in found.findings if one.rule == "quantised-twice")
    assert one.says.startswith("'x' is quantised 2 times")
    mx, _ = made(down="mxfp8")
    assert "opset" in rules(lint_plan(mx, "iree", path), "error")
    assert "opset" not in rules(lint_plan(mx, "tensorrt", path))


def test_a_tied_table_is_said_to_be_stored_twice(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Gemm", ["e", "table"], ["y"], name="head", transB=1),
    ]
    proto = model(nodes, {"ids": ["n"]}, ["y"], [tensor("table", 40, 32)], types={"ids": 7})
    path = save(proto, tmp_path)
    space = SearchSpace("s", (find_scheme("fp32"), find_scheme("fp8")), "fp32")
    ids = np.arange(8, dtype=np.int64)
    simulator = Simulator(import_onnx(path), space, make_batches({"ids": ids}, batch_size=4))
    assert "tied" in rules(lint_plan(make_plan(Point((1,), {}), simulator), "onnxruntime", path))
    assert "tied" not in rules(
        lint_plan(make_plan(Point((0,), {}), simulator), "onnxruntime", path)
    )


def test_without_a_model_only_schemes_are_checked_and_that_is_said(made: Any) -> None:
    plan, _ = made(down="mxfp8", q="fp8", k="fp8", v="fp8")
    found = lint_plan(plan, "tensorrt_llm")
    assert "no-model" in rules(found, "note")
    layers = {one.layer for one in found.errors if one.rule == "silent-fallback"}
    assert layers == {SITES[name] for name in ("down", "q", "k", "v")}
    assert not found.with_model


def test_the_command_says_each_finding_and_fails_where_the_target_refuses(
    made: Any, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    plan, path = made(down="nvfp4")
    write_plan(plan, tmp_path / "plan.json")
    refused = mpsearch("plan", "lint", tmp_path / "plan.json", "-t", "onnxruntime", "-m", path)
    assert refused.code == 1
    assert f"error no-fp4: {SITES['down']!r} in nvfp4: onnxruntime on a CPU has no" in refused.out
    taken = mpsearch("plan", "lint", tmp_path / "plan.json", "-t", "openvino", "-m", path, "--json")
    errors = [one["rule"] for one in taken.json["findings"] if one["severity"] == "error"]
    assert taken.code == (1 if errors else 0)
    assert set(errors) <= {"no-exporter"}
    assert taken.json["proof"] == "its files are proven in openvino"
    for one in taken.json["findings"]:
        assert one["source"]
    assert mpsearch("plan", "lint", tmp_path / "plan.json", "-t", "abacus").code == 1


def test_weights_that_a_plan_names_must_lie_beside_it(made: Any, tmp_path: Path) -> None:
    plan, path = made(down="fp8")
    plan = replace(
        plan,
        weights=hold_weights({("bias", SITES["down"]): np.zeros(32, np.float32)}),
        requires=("weights",),
        recovery=("bias",),
    )
    write_plan(plan, tmp_path / "plan.json")
    assert "weights-file" not in rules(lint_file(tmp_path / "plan.json", "npu", path))
    (tmp_path / "plan.weights.safetensors").unlink()
    assert "weights-file" in rules(lint_file(tmp_path / "plan.json", "npu", path), "error")


def test_tensors_of_a_plan_that_a_target_does_not_take_are_said(made: Any, tmp_path: Path) -> None:
    plan, path = made(down="fp8_dynamic")
    biased = replace(
        plan,
        weights=hold_weights({("bias", SITES["down"]): np.zeros(32, np.float32)}),
        requires=("weights",),
        recovery=("bias",),
    )
    assert "changed-weights" in rules(lint_plan(biased, "torchao", path), "error")
    assert "added-bias" in rules(lint_plan(biased, "vllm", path), "warning")
    assert not rules(lint_plan(biased, "npu", path)) & {"changed-weights", "added-bias"}
    assert not rules(lint_plan(plan, "torchao", path)) & {"changed-weights", "added-bias"}
    with pytest.raises(PlanError, match="rounds the model's own weights"):
        export_plan(biased, path, tmp_path / "out", target="torchao")


def test_every_target_has_twenty_rules_or_more() -> None:
    """Those of its file, and those of any plan that apply to it."""
    import ast
    import inspect

    from mpsearch.space.targets import list_targets, read_target
    from mpsearch.verify import lint, lint_rules

    text = inspect.getsource(lint) + inspect.getsource(lint_rules)
    named = {
        call.args[1].value
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") == "Finding"
        and len(call.args) > 1
        and isinstance(call.args[1], ast.Constant)
    }
    assert len(named) >= 18
    for name in list_targets():
        target = read_target(name)
        assert len(named) + len(target.rules) + len(target.groups) >= 20, name
