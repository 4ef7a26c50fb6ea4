"""A run goes on with more samples: what was measured stays, the rest is measured, the front is made again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpsearch.data.batches import Batches, make_batches, read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.jobs import forecast
from mpsearch.plan.files import read_plan
from mpsearch.problem.front import read_front
from mpsearch.program.program import Values
from mpsearch.runs.record import read_record
from mpsearch.simulate.runner import Runner
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.stats.estimates import Floats, Ints
from tests.support.command_line import SEARCH, Mpsearch
from tests.support.tiny_job import draw

Measured = list[tuple[tuple[int, ...], str]]


@pytest.fixture(scope="module")
def more(tiny: Path) -> Path:
    """The 24 samples of the calibration data, and 20 others after them."""
    calib = np.load(tiny / "calib.npz")["x"]
    path = tiny / "longer.npz"
    np.savez(path, x=np.concatenate([calib, draw(20, seed=7)["x"]]))
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """(assignment, samples) of all batches whose losses were asked of a simulator, and of all scores."""
    seen: Measured = []
    run_batch, scores = Runner.run_batch, Simulator.scores

    def counted(self: Runner, feed: Any, schemes: tuple[int, ...], batch: int) -> Values:
        rows = make_batches({name: x.numpy() for name, x in feed.items()})
        seen.append((schemes, rows.digest))
        return run_batch(self, feed, schemes, batch)

    def scored(self: Simulator, assignment: Ints | None) -> dict[str, Floats]:
        key = () if assignment is None else tuple(np.asarray(assignment).tolist())
        seen.append((key, f"scores {self.batches.digest}"))
        return scores(self, assignment)

    monkeypatch.setattr(Runner, "run_batch", counted)
    monkeypatch.setattr(Simulator, "scores", scored)
    return seen


def test_more_samples_measure_only_what_was_not_measured(
    tiny: Path, more: Path, tmp_path: Path, mpsearch: Mpsearch, measured: Measured
) -> None:
    run = tmp_path / "run"
    command = [*SEARCH(tiny), "--data", more, "--eval", tiny / "held.npz", "-o", run]
    command += ["--metric", "perturbation", "--self-test", 4, "--refine", 6]
    assert mpsearch(*command, "--samples", 24).code == 0
    first = len(measured)
    found = mpsearch(*command, "--samples", 44)
    assert found.code == 0, found.err
    assert len(measured) > first
    assert len(set(measured)) == len(measured)
    said = "Ranges are those of the first 24 of 44 samples"
    assert said in found.out
    assert said in (run / "report.html").read_text()
    record = read_record(run)
    assert (record.samples, record.calibrated) == (44, 24)
    assert record.results is not None
    assert record.results.samples == 44
    count = len(measured)
    assert mpsearch(*command, "--samples", 44).code == 0
    assert len(measured) == count


def test_the_front_is_that_of_all_samples_with_the_first_ranges(
    tiny: Path, more: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run, out = tmp_path / "run", tmp_path / "plan.json"
    command = [*SEARCH(tiny), "--refine", 0, "-o", run]
    assert mpsearch(*command).code == 0
    (run / "plans/mixed.json").write_bytes((run / "plans/safe.json").read_bytes())
    assert mpsearch(*command, "--data", more).code == 0  # another file that begins alike
    assert not (run / "plans/mixed.json").exists()  # no rule chooses it any more
    first = read_batches(tiny / "calib.npz", batch_size=8)
    calibrated = Simulator(import_onnx(tiny / "tiny.onnx"), read_space("npu"), first)
    simulator = calibrated.on_data(read_batches(more, batch_size=8))
    points = [p for p in read_front(run / "front.json").points if p.measured]
    assert len(points) >= 4
    for point in points:
        assert point.measured["loss"] == simulator.loss(np.array(point.assignment))
    assert read_plan(run / "plans/uniform_fp8.json").fingerprint["calibration_samples"] == "24"
    files = ["--model", tiny / "tiny.onnx", "--data", more]
    assert mpsearch("plan", "choose", run, "--knee", *files, "-o", out).code == 0
    plan = read_plan(out)
    assert plan.fingerprint["calibration_samples"] == "24"
    assert all(r.range == calibrated.ranges[r.value, r.spec] for r in plan.ranges)


def test_fewer_samples_and_other_data_are_refused_in_one_line(
    tiny: Path, more: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = tmp_path / "run"
    command = [*SEARCH(tiny), "--refine", 0, "-o", run]
    assert mpsearch(*command).code == 0
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    np.savez(tmp_path / "other.npz", **draw(44, seed=9))
    for options, message in (
        (["--samples", 16], "run: was measured on 24 samples and cannot go on with 16"),
        (["--data", tmp_path / "other.npz"], "run: is the run of other data"),
        (["--data", more, "--seed", 3], r"run of another job (seed: 0 there, 3 here)"),
    ):
        refused = mpsearch(*command, *options)
        assert refused.code == 1
        assert message in refused.err
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before


def test_an_interruption_of_the_longer_run_keeps_the_plans_and_goes_on(
    tiny: Path, more: Path, tmp_path: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = [*SEARCH(tiny), "--refine", 0, "-o", run]
    assert mpsearch(*command).code == 0
    plans = {path.name: path.read_bytes() for path in (run / "plans").iterdir()}

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mpsearch.jobs.stages.score_sensitivity", stop)
        assert mpsearch(*command, "--data", more).code == 130
    assert {path.name: path.read_bytes() for path in (run / "plans").iterdir()} == plans
    assert "reached its end" in mpsearch("report", run).err
    assert mpsearch(*command, "--data", more).code == 0
    assert read_record(run).calibrated == 24


def test_a_run_without_data_goes_on_with_some(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = tmp_path / "run"
    command = ["search", tiny / "tiny.onnx", "--device", "npu_200tops", "--refine", 0, "-o", run]
    assert mpsearch(*command).code == 0
    assert mpsearch(*command, "--data", tiny / "calib.npz").code == 0
    assert read_record(run).calibrated == 24
    assert mpsearch(*command).code == 1


def test_a_dry_run_into_a_run_folder_is_of_that_run(
    tiny: Path, more: Path, tmp_path: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated on the samples that the run was; refused where the run would be."""
    run = tmp_path / "run"
    command = [*SEARCH(tiny), "--refine", 0, "-o", run]
    assert mpsearch(*command).code == 0
    calibrated: list[int] = []
    simulator = forecast.calibrated_simulator

    def noted(prepared: Any, first: Batches, watch: Any) -> Simulator:
        calibrated.append(len(first))
        return simulator(prepared, first, watch)

    monkeypatch.setattr(forecast, "calibrated_simulator", noted)
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    found = mpsearch(*command, "--data", more, "--dry-run", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["samples"] == 44
    assert calibrated == [24]
    found = mpsearch(*command, "--samples", 12, "--dry-run")
    assert found.code == 1
    assert "was measured on 24 samples and cannot go on with 12" in found.err
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
