"""A verification in onnxruntime also says what its default optimisations make of the export."""

import json
from pathlib import Path

import pytest

from mpsearch.export.export_plan import export_plan
from mpsearch.verify.verification import DeployedCheck, Verification, WholeCheck
from mpsearch.verify.verify_plan import verify_plan
from tests.support.integer_models import branching_net, pictures, plan_of
from tests.verify.test_verify_plan import export_uniform


def test_integer_kernels_are_named_by_layer_and_the_result_is_the_same(tmp_path: Path) -> None:
    plan, model = plan_of(
        branching_net(), tmp_path, {"right": "fp32", "hidden": "w4a16_g32"}, "int8"
    )
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    found = verify_plan(plan, model, tmp_path / "out", pictures(), runtime="onnxruntime")
    assert found.ok, str(found)
    deployed = found.deployed
    assert deployed is not None
    assert deployed.is_meant
    assert not deployed.promoted
    assert deployed.whole is not None
    assert deployed.whole.ok
    kernels = {
        **{"left": "QLinearConv", "last": "Conv", "right": "Conv", "stem": "Conv"},
        **{"narrow": "Conv", "residual": "Conv", "hidden": "MatMulNBits"},
        **{"value": "QGemm", "head": "MatMulIntegerToFloat"},
    }
    assert deployed.kernels == kernels
    assert "default  KL" in str(found) or "default  relative MSE" in str(found)
    assert json.loads(json.dumps(found.to_json()))["deployed"]["kernels"] == kernels


def test_a_canonical_export_that_the_optimiser_breaks_is_told_but_not_blamed(
    tmp_path: Path,
) -> None:
    exported = export_uniform(tmp_path, "attention", "fp8", base="fp32")
    found = verify_plan(
        exported.plan, exported.model, exported.folder, exported.batches, runtime="onnxruntime"
    )
    assert found.ok, str(found)
    assert found.deployed is not None
    assert not found.deployed.agrees
    assert "QLinearMatMul" in found.deployed.refused
    assert "export with --target onnxruntime" in str(found)
    export_plan(exported.plan, exported.model, exported.folder, target="onnxruntime")
    again = verify_plan(
        exported.plan, exported.model, exported.folder, exported.batches, runtime="onnxruntime"
    )
    assert again.ok, str(again)
    assert again.deployed is not None
    assert again.deployed.agrees


def test_other_runtimes_have_no_other_defaults_to_prove(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "fp8")
    found = verify_plan(
        exported.plan, exported.model, exported.folder, exported.batches, runtime="reference"
    )
    assert found.deployed is None


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (DeployedCheck({"a": "QLinearConv"}, ("a",), None, "", True), "promoted to integers: a"),
        (DeployedCheck({}, (), None, "onnxruntime cannot run it", True), "cannot run it"),
        (DeployedCheck({}, (), WholeCheck("KL", 1, 1, 0.1, False), "", True), "KL 1"),
    ],
)
def test_an_export_that_was_meant_for_the_runtime_must_run_by_default(
    check: DeployedCheck, reason: str
) -> None:
    whole = WholeCheck("KL", 0.0, 1.0, 0.1, True)
    found = Verification("m", "onnxruntime", 1, 1e-3, (), whole, deployed=check)
    assert not found.ok
    assert "with default optimisations" in found.difference
    assert reason in found.difference
    assert "graph optimisations off" in found.advice[0]
