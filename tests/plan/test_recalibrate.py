"""A plan on other weights: refused, or its decisions with ranges and weights that are made anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpsearch.data.batches import Batches
from mpsearch.errors import PlanError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.plan.recalibrate import recalibrate_plan
from mpsearch.plan.recover import recover_plan
from mpsearch.plan.score import score_plan
from mpsearch.problem.front import Point
from mpsearch.simulate.simulator import Simulator
from mpsearch.verify.verify_plan import verify_plan
from tests.support.command_line import Mpsearch
from tests.support.small_models import space_of
from tests.support.torch_models import attention_net, conv_net, images

SPACE = space_of("fp16", "fp8", "int8", "nvfp4")
CHOSEN = (2, 1, 3, 2)


def planned(path: Path, data: Batches, seed: int) -> tuple[Plan, Simulator]:
    onnx.save(conv_net(seed=seed), path)
    simulator = Simulator(import_onnx(path), SPACE, data)
    return make_plan(Point(CHOSEN, {}), simulator), simulator


def test_ranges_weights_and_loss_are_those_of_a_plan_that_was_made_on_the_other_weights(
    tmp_path: Path,
) -> None:
    data = images()
    plan, _ = planned(tmp_path / "first.onnx", data, 0)
    wanted, other = planned(tmp_path / "other.onnx", data, 5)
    assert plan.ranges != wanted.ranges
    with pytest.raises(PlanError, match="--recalibrate"):
        export_plan(plan, tmp_path / "other.onnx", tmp_path / "out")
    with pytest.raises(PlanError, match="--recalibrate"):
        score_plan(plan, tmp_path / "other.onnx", data)
    assert not (tmp_path / "out").exists()
    export_plan(plan, tmp_path / "other.onnx", tmp_path / "out", batches=data, recalibrate=True)
    made = read_plan(tmp_path / "out" / "plan.json")
    assert made.decisions == plan.decisions
    assert made.ranges == wanted.ranges
    assert made.weights_digest == wanted.weights_digest
    assert made.coverage == wanted.coverage
    assert made.fingerprint["recalibrated_from"] == plan.weights_digest
    loss = other.loss(np.array(CHOSEN))
    assert made.measured["loss"] == pytest.approx(loss)
    assert "loss" not in made.predicted
    assert score_plan(plan, tmp_path / "other.onnx", data, recalibrate=True) == pytest.approx(loss)
    found = verify_plan(made, tmp_path / "other.onnx", tmp_path / "out", data)
    assert found.ok, str(found)


def test_on_its_own_weights_and_data_a_plan_stays_what_it_is(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path / "m.onnx", images(), 0)
    again = recalibrate_plan(plan, tmp_path / "m.onnx", images())
    assert (again.decisions, again.ranges) == (plan.decisions, plan.ranges)
    assert again.weights is None
    assert again.weights_digest == plan.weights_digest


def test_recovered_weights_are_recovered_anew_and_trained_ones_refused(tmp_path: Path) -> None:
    data = images(24)
    plan, simulator = planned(tmp_path / "first.onnx", data, 0)
    recovered = recover_plan(plan, simulator, methods="gptq,bias")
    assert recovered.weights is not None
    onnx.save(conv_net(seed=5), tmp_path / "other.onnx")
    made = recalibrate_plan(recovered, tmp_path / "other.onnx", data)
    assert set(made.recovery) <= {"gptq", "bias"}
    if made.weights is not None:
        assert made.weights.digest != recovered.weights.digest
    before = score_plan(
        recalibrate_plan(plan, tmp_path / "other.onnx", data), tmp_path / "other.onnx", data
    )
    assert score_plan(made, tmp_path / "other.onnx", data).mean <= before.mean * 1.001
    trained = replace(recovered, recovery=("gptq", "train"))
    with pytest.raises(PlanError, match=r"train of the plan must be done anew"):
        recalibrate_plan(trained, tmp_path / "other.onnx", data)


def test_other_structures_versions_missing_files_and_missing_data_are_named(
    tmp_path: Path, mpsearch: Mpsearch
) -> None:
    data = images()
    plan, _ = planned(tmp_path / "m.onnx", data, 0)
    write_plan(plan, tmp_path / "plan.json")
    onnx.save(attention_net(), tmp_path / "attention.onnx")
    with pytest.raises(PlanError, match="model that it was made for"):
        recalibrate_plan(plan, tmp_path / "attention.onnx", data)
    onnx.save(conv_net(seed=5), tmp_path / "other.onnx")
    np.savez(tmp_path / "d.npz", **data.arrays)
    command = ["export", tmp_path / "plan.json", "-m", tmp_path / "other.onnx"]
    command += ["-o", tmp_path / "out"]
    refused = mpsearch(*command)
    assert refused.code == 1
    assert "--recalibrate" in refused.err
    refused = mpsearch(*command, "--recalibrate")
    assert "calibration data: give them with --data" in refused.err
    taken = mpsearch(*command, "--recalibrate", "--data", tmp_path / "d.npz")
    assert taken.code == 0, taken.err
    score = ["score", tmp_path / "plan.json", "-m", tmp_path / "other.onnx"]
    score += ["-d", tmp_path / "d.npz", "--json"]
    assert mpsearch(*score).code == 1
    assert mpsearch(*score, "--recalibrate").json["samples"] == 10
    verify = ["verify", tmp_path / "out", "-m", tmp_path / "other.onnx"]
    verify += ["-d", tmp_path / "d.npz", "--plan", tmp_path / "plan.json"]
    assert mpsearch(*verify).code == 1
    assert mpsearch(*verify, "--recalibrate").code == 0
    text = (tmp_path / "plan.json").read_text().replace('"version": 1', '"version": 9', 1)
    (tmp_path / "new.json").write_text(text)
    newer = mpsearch(
        "export", tmp_path / "new.json", "-m", tmp_path / "m.onnx", "-o", tmp_path / "o"
    )
    assert (
        "new.json: schema mpsearch.plan version 1 is needed, got mpsearch.plan version 9"
        in newer.err
    )
