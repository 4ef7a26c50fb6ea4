"""``--recovery auto``: finalists are recovered, stand in the table beside what they were, and are exported as they were measured."""

from pathlib import Path

import numpy as np
import pytest

import mpsearch as mp
from mpsearch.plan.files import read_plan
from mpsearch.problem.front import RECOVERED, read_front
from tests.support.command_line import SEARCH, Mpsearch


@pytest.fixture(scope="module")
def run(tiny: Path, mpsearch: Mpsearch) -> Path:
    folder = tiny / "finalists"
    command = [*SEARCH(tiny), "--eval", tiny / "held.npz", "--recovery", "gptq,bias"]
    found = mpsearch(*command, "--finalists", "3", "--rules", "none", "-o", folder)
    assert found.code == 0, found.err
    return folder


def test_the_table_holds_plans_with_and_without_recovery(run: Path) -> None:
    rows = {row.label: row for row in mp.open_run(run).results.rows}
    assert any(row.recovery for row in rows.values())
    for label, row in rows.items():
        if row.recovery and label.startswith("uniform"):
            plain = rows[label.removesuffix(", recovered")]
            assert plain.assignment == row.assignment
            assert not plain.recovery
            assert row.scores.keys() == plain.scores.keys()
            assert row.scores != plain.scores


def test_at_most_the_finalists_stand_recovered_on_the_front(run: Path) -> None:
    points = [p for p in read_front(run / "front.json").points if p.method == RECOVERED]
    assert 1 <= len(points) <= 3
    assert (run / "plain_front.json").is_file()


def test_what_is_measured_is_what_the_written_plan_loses(run: Path, tiny: Path) -> None:
    """On the samples that took no part in recovery, from the plan's file alone."""
    data = mp.read_batches(tiny / "calib.npz", limit=128, batch_size=8)
    checked = 0
    for path in sorted((run / "plans").glob("*.json")):
        plan = read_plan(path)
        if not plan.recovery:
            continue
        n = len(data)
        scored = data.pick([i for i in range(n) if i % 3 == 2])
        loss = mp.score_plan(plan, tiny / "tiny.onnx", scored).mean
        np.testing.assert_allclose(loss, plan.measured["loss"].mean, rtol=1e-5)
        checked += 1
    assert checked


def test_a_second_run_recovers_nothing_again(
    run: Path, tiny: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("recovered again")

    before = {path.name: path.read_bytes() for path in (run / "plans").iterdir()}
    monkeypatch.setattr("mpsearch.plan.recover.recover", forbidden)
    command = [*SEARCH(tiny), "--eval", tiny / "held.npz", "--recovery", "gptq,bias"]
    found = mpsearch(*command, "--finalists", "3", "--rules", "none", "-o", run)
    assert found.code == 0, found.err
    assert {path.name: path.read_bytes() for path in (run / "plans").iterdir()} == before


def test_the_chosen_plan_exports_as_recovered(
    run: Path, tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    names = [p for p in sorted((run / "plans").glob("*.json")) if read_plan(p).recovery]
    out = tmp_path / "export"
    model, data = tiny / "tiny.onnx", tiny / "calib.npz"
    assert mpsearch("export", names[0], "--model", model, "-o", out).code == 0
    found = mpsearch("verify", out, "--model", model, "--data", data, "--json")
    assert found.code == 0, found.err
    assert all(layer["error"] <= 1e-3 for layer in found.json["layers"])


def test_unknown_methods_are_named_before_anything_runs(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    found = mpsearch(*SEARCH(tiny), "--recovery", "magic", "-o", tmp_path / "run")
    assert found.code == 1
    assert "method of recovery must be one of" in found.err
    assert not (tmp_path / "run").exists()
