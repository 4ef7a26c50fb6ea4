"""Two plans side by side: what differs is named, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.errors import PlanError
from mpsearch.plan.diff import diff_plans
from mpsearch.plan.files import write_plan
from mpsearch.plan.plan import Change, Covered, Decision, Plan, Site
from mpsearch.schemes import find_scheme
from mpsearch.stats.estimates import Estimate
from tests.support.command_line import Mpsearch


def plan(**changes: object) -> Plan:
    names = ("fp16", "fp8", "nvfp4")
    made = Plan(
        model="net.onnx",
        structure_digest="a" * 64,
        weights_digest="b" * 64,
        shapes={"x": (None, 8)},
        base="fp16",
        schemes={name: find_scheme(name) for name in names},
        decisions=(
            Decision(Site("fc1"), "fp8"),
            Decision(Site("fc2"), "nvfp4"),
            Decision(Site("fc3"), "fp16"),
        ),
        ranges=(),
        coverage=Covered(10, 10, 20, 20, 8.0),
        predicted={"latency_us": Estimate(3.0, 0.3), "weight_bytes": Estimate(100.0, 0.0)},
        measured={"loss": Estimate(0.2, 0.03)},
        unit="nats",
        device="h100",
        batch=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields of a plan


def test_a_plan_differs_from_itself_in_nothing() -> None:
    found = diff_plans(plan(), plan())
    assert found.layers == ()
    assert found.same == 3
    assert found.fields == {}
    assert all(figure.difference.mean == 0 for figure in found.predicted.values())


def test_layers_schemes_methods_and_gains_are_named() -> None:
    other = plan(
        decisions=(Decision(Site("fc1"), "fp8"), Decision(Site("fc2"), "fp8")),
        predicted={"latency_us": Estimate(4.0, 0.4), "weight_bytes": Estimate(130.0, 0.0)},
        measured={"loss": Estimate(0.1, 0.04)},
        recovery=("gptq",),
        changes=(Change(Site("fc1"), ("gptq",), 2.0, 1.0),),
    )
    found = diff_plans(plan(), other)
    assert [(x.node, x.before, x.after, x.methods_after) for x in found.layers] == [
        ("fc1", "fp8", "fp8", ("gptq",)),
        ("fc2", "nvfp4", "fp8", ()),
    ]
    assert found.same == 1  # fc3: the base in both, decided in one
    assert found.predicted["weight_bytes"].difference == (30.0, 0.0)
    assert found.predicted["latency_us"].difference == pytest.approx((1.0, 0.5))
    assert found.measured["loss"].difference == pytest.approx((-0.1, 0.05))
    assert found.measured["loss"].is_comparable
    assert found.fields == {"recovery": ("none", "gptq")}


def test_figures_of_another_device_unit_or_data_are_not_comparable() -> None:
    assert not diff_plans(plan(), plan(device="t4")).predicted["latency_us"].is_comparable
    assert diff_plans(plan(), plan(device="t4")).predicted["weight_bytes"].is_comparable
    assert not diff_plans(plan(), plan(unit="mse")).measured["loss"].is_comparable
    other = plan(fingerprint={"calibration": "c" * 64})
    assert not diff_plans(plan(), other).measured["loss"].is_comparable


def test_one_name_for_two_schemes_is_a_difference() -> None:
    redefined = replace(find_scheme("fp8_dynamic"), name="fp8")
    other = plan(schemes={**plan().schemes, "fp8": redefined})
    assert [(x.node, x.redefined) for x in diff_plans(plan(), other).layers] == [("fc1", True)]


def test_plans_of_two_models_are_not_compared(tmp_path: Path, mpsearch: Mpsearch) -> None:
    other = plan(structure_digest="c" * 64, model="other.onnx")
    with pytest.raises(PlanError, match=r"for net.onnx .* and other.onnx"):
        diff_plans(plan(), other)
    write_plan(plan(), tmp_path / "a.json")
    write_plan(plan(decisions=()), tmp_path / "b.json")
    shown = mpsearch("plan", "diff", tmp_path / "a.json", tmp_path / "b.json")
    assert shown.code == 0
    assert "2 layers differ" in shown.out
    found = mpsearch("plan", "diff", tmp_path / "a.json", tmp_path / "b.json", "--json").json
    assert [layer["node"] for layer in found["layers"]] == ["fc1", "fc2"]
    assert found["predicted"]["latency_us"]["difference"]["mean"] == 0
    write_plan(other, tmp_path / "c.json")
    assert mpsearch("plan", "diff", tmp_path / "a.json", tmp_path / "c.json").code == 1
