"""``--recovery obs``: from a search to an export that holds the recovered weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from mpsearch.artifacts import digest_json
from mpsearch.data.batches import read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.files import read_plan
from mpsearch.plan.match import plan_assignment
from mpsearch.plan.plan import plan_space
from mpsearch.schemes import Scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.simulate.weight_cache import WeightStore
from tests.support.command_line import SEARCH, Mpsearch
from tests.support.tiny_job import draw


@pytest.fixture(scope="module")
def recovered(tiny: Path, mpsearch: Mpsearch) -> Path:
    """A run on the first 24 samples of a file that holds more."""
    np.savez(tiny / "more.npz", **draw(40, seed=1))
    command = [*SEARCH(tiny), "--data", tiny / "more.npz", "--samples", 24, "--refine", 0]
    run = tiny / "recovered"
    found = mpsearch(*command, "--schemes", "fp8,fp8_2of4", "--recovery", "obs", "-o", run)
    assert found.code == 0, found.err
    return run


def test_recovery_lowers_the_loss_of_pruned_plans(
    tiny: Path, recovered: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    command = [*SEARCH(tiny), "--refine", 0, "--schemes", "fp8,fp8_2of4", "-o", tmp_path / "run"]
    assert mpsearch(*command).code == 0
    name = "plans/uniform_fp8_2of4.json"
    pruned, obs = read_plan(tmp_path / "run" / name), read_plan(recovered / name)
    assert obs.measured["loss"].mean < pruned.measured["loss"].mean / 2
    assert obs.requires == ("weights",)
    assert pruned.requires == ()
    assert obs.weights is not None
    assert pruned.weights is None
    assert 'recovery = "obs"' in (recovered / "job.toml").read_text()


def test_an_export_holds_the_weights_that_the_run_measured(
    tiny: Path, recovered: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    path = recovered / "plans/uniform_fp8_2of4.json"
    model = ["--model", tiny / "tiny.onnx"]
    assert mpsearch("export", path, *model, "-o", tmp_path / "out").code == 0
    checked = mpsearch("verify", tmp_path / "out", *model, "--data", tiny / "held.npz", "--json")
    assert checked.code == 0, checked.err
    assert checked.json["ok"]

    plan = read_plan(path)
    batches = read_batches(tiny / "more.npz", limit=24, batch_size=8)
    simulator = Simulator(import_onnx(tiny / "tiny.onnx"), plan_space(plan), batches)
    assignment = plan_assignment(plan, simulator.graph, simulator.space)
    assert simulator.loss(assignment) == plan.measured["loss"]


def as_before(path: Path, out: Path) -> Path:
    """Write the plan at ``path`` as earlier versions did, which rebuilt weights from the data."""
    envelope = json.loads(path.read_text())
    del envelope["content"]["weights"]
    envelope["content"]["requires"] = ["recovery"]
    envelope["digest"] = digest_json(envelope["content"])
    out.write_text(json.dumps(envelope))
    return out


def test_a_plan_of_an_earlier_version_is_rebuilt_from_the_samples_of_its_calibration(
    tiny: Path, recovered: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    plan = recovered / "plans/uniform_fp8_2of4.json"
    old = as_before(plan, tmp_path / "old.json")
    command = ["export", old, "--model", tiny / "tiny.onnx"]
    without = mpsearch(*command, "-o", tmp_path / "out")
    assert without.code == 1
    assert "give the calibration data with --data" in without.err
    others = mpsearch(*command, "--data", tiny / "held.npz", "-o", tmp_path / "out")
    assert others.code == 1
    assert "must begin with the 24 samples" in others.err
    assert not (tmp_path / "out").exists()
    assert mpsearch(*command, "--data", tiny / "more.npz", "-o", tmp_path / "out").code == 0
    assert read_plan(tmp_path / "out" / "plan.json").weights == read_plan(plan).weights


def test_a_run_that_goes_on_keeps_the_weights_of_its_plans(
    tiny: Path, recovered: Path, tmp_path: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(recovered, run)
    before = {path.name: path.read_bytes() for path in (run / "plans").iterdir()}
    assert "uniform_fp8_2of4.weights.safetensors" in before
    lost = run / "plans/uniform_fp8_2of4.weights.safetensors"
    command = [*SEARCH(tiny), "--data", tiny / "more.npz", "--samples", 24, "--refine", 0]
    command += ["--schemes", "fp8,fp8_2of4", "--recovery", "obs", "-o", run]
    calls = []
    whole = WeightStore.recovered

    def counted(self: WeightStore, layer: int, scheme: Scheme, gemm: int = 0) -> Tensor:
        calls.append(layer)
        return whole(self, layer, scheme, gemm)

    monkeypatch.setattr(WeightStore, "recovered", counted)
    assert mpsearch(*command).code == 0
    assert not calls
    lost.unlink()
    assert mpsearch(*command).code == 0
    assert calls
    assert {path.name: path.read_bytes() for path in (run / "plans").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schemes", "fp8", "--recovery", "obs"], "recovery obs is for sparse schemes"),
        (
            ["--recovery", "magic"],
            "recovery must be none, auto, obs or methods: method of recovery must be one of gptq",
        ),
    ],
)
def test_a_mistake_is_one_line(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch, options: list[object], message: str
) -> None:
    found = mpsearch(*SEARCH(tiny), *options, "-o", tmp_path / "run")
    assert found.code == 1
    assert message in found.err
    assert not (tmp_path / "run").exists()


def test_a_table_of_recovered_schemes(tiny: Path, mpsearch: Mpsearch) -> None:
    command = ["sensitivity", tiny / "tiny.onnx", "--data", tiny / "calib.npz", "--json"]
    command += ["--metric", "perturbation", "--schemes", "fp8_2of4"]
    plain = mpsearch(*command).json["values"]
    obs = mpsearch(*command, "--recovery", "obs").json["values"]
    assert obs[2][1] < plain[2][1]
