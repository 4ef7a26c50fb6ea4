"""Many jobs by one command: what fails hinders no other, what is finished is not run again."""

import csv
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from mpsearch.problem.tables import read_table
from mpsearch.runs.store.shared import SharedStore
from tests.support.command_line import Mpsearch, Result
from tests.support.tiny_job import draw, write_job, write_model

HEAD = (
    'model = "tiny.onnx"\ndata = "calib.npz"\nbatch_size = 8\nmeasure = 4\nrefine = 0\nthreads = 1\n'
    'metric = "perturbation"\nrules = ["none"]\n'
)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_job(tmp_path_factory.mktemp("batch"))
    (folder / "good.toml").write_text(
        HEAD + 'device = "npu_200tops"\n[sweep]\ndevice = ["npu_200tops", "h100_sxm5_80gb"]\n'
    )
    (folder / "bad.toml").write_text(HEAD + 'device = "npu_200tops"\n[sweep]\nsead = [1]\n')
    (folder / "missing.toml").write_text(
        'model = "nowhere.onnx"\ndevice = "npu_200tops"\ndata = "calib.npz"\n'
    )
    (folder / "late.toml").write_text(HEAD + 'device = "npu_200tops"\nkeep = ["nothing like it"]\n')
    return folder


def measured(run: Path) -> set[str]:
    """Assignments whose losses on the first batch lie in a run."""
    with sqlite3.connect(run / "evaluations.sqlite") as connection:
        rows = connection.execute("SELECT context, assignment FROM evaluations").fetchall()
    connection.close()
    contexts = [context for context, _ in rows]
    most = max(set(contexts), key=contexts.count)
    return {assignment for context, assignment in rows if context == most}


def run(mpsearch: Mpsearch, jobs: Path, *more: object) -> Result:
    files = [jobs / f"{name}.toml" for name in ("good", "bad", "missing", "late")]
    return mpsearch("batch", *files, "-o", jobs / "runs", *more)


@pytest.fixture(scope="module")
def first(mpsearch: Mpsearch, jobs: Path) -> Result:
    return run(mpsearch, jobs, "--json")


def test_what_fails_hinders_no_other_and_is_told_at_the_end(first: Result, jobs: Path) -> None:
    assert first.code == 1
    found = {row["run"]: (row["state"], row["said"]) for row in first.json["runs"]}
    assert found["good_npu-200tops"] == ("finished", "")
    assert found["good_h100-sxm5-80gb"] == ("finished", "")
    assert "sweep.sead: no such key" in found["bad"][1]
    assert "'nowhere.onnx' was not found" in found["missing"][1]
    assert "must match a layer" in found["late"][1]
    assert [row[0] for row in found.values()].count("failed") == 3


def test_runs_are_summarized_side_by_side(first: Result, jobs: Path) -> None:
    text = (jobs / "runs" / "summary.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["device"] for row in rows} == {"npu_200tops", "h100_sxm5_80gb"}
    assert {row["plan"] for row in rows} >= {"uniform fp16", "uniform nvfp4"}
    page = (jobs / "runs" / "summary.html").read_text()
    assert "tiny.onnx on npu_200tops" in page
    assert "sweep.sead" in page


def test_another_device_prices_anew_and_measures_nothing_of_the_table_again(
    first: Result, jobs: Path
) -> None:
    """Schemes that both devices' spaces have are measured once, whatever their place in the space."""
    ran = [jobs / "runs" / f"good_{name}" for name in ("npu-200tops", "h100-sxm5-80gb")]
    tables = [read_table(path / "sensitivity.json") for path in ran]
    both = set(tables[0].schemes) & set(tables[1].schemes)
    assert {"fp8", "fp16"} < both
    columns = [[table.schemes.index(name) for name in sorted(both)] for table in tables]
    values = [t.values[:, chosen] for t, chosen in zip(tables, columns, strict=True)]
    np.testing.assert_array_equal(*values)
    with SharedStore(str(jobs / "runs" / "store.sqlite")) as store:
        described = [about for about in store.contexts().values() if about]
        assert len(described) == 3  # one a batch of the data: both runs' losses are of one context
        assert {about["file"] for about in described} == {"tiny.onnx"}
        counts = store.counts()
        kept = [counts[digest] for digest, about in store.contexts().items() if about]
    rows = [len(measured(path)) for path in ran]
    assert max(kept) < sum(rows)  # fewer than the two runs hold: what one measured, the other took


def test_a_second_time_only_what_failed_or_changed_is_run(
    first: Result, mpsearch: Mpsearch, jobs: Path
) -> None:
    before = (jobs / "runs" / "good_npu-200tops" / "run.json").read_bytes()
    (jobs / "late.toml").write_text(HEAD + 'device = "npu_200tops"\nkeep = ["head"]\n')
    again = run(mpsearch, jobs, "--json")
    found = {row["run"]: row["state"] for row in again.json["runs"]}
    assert found["good_npu-200tops"] == found["good_h100-sxm5-80gb"] == "unchanged"
    assert (found["late"], found["missing"]) == ("finished", "failed")
    assert (jobs / "runs" / "good_npu-200tops" / "run.json").read_bytes() == before

    write_model(jobs / "nowhere.onnx", seed=3)
    (jobs / "late.toml").write_text(HEAD + 'device = "npu_200tops"\nkeep = ["stem"]\n')
    third = mpsearch("batch", jobs / "late.toml", "-o", jobs / "runs", "--json").json["runs"]
    assert [row["state"] for row in third] == ["finished"]
    (jobs / "nowhere.onnx").unlink()


def test_a_file_that_holds_other_bytes_is_a_change(first: Result, jobs: Path) -> None:
    from mpsearch.jobs.batches.planned import plan_batch

    good = [jobs / "good.toml"]
    assert all(one.finished for one in plan_batch(good, jobs / "runs").runs)
    kept = (jobs / "calib.npz").read_bytes()
    np.savez(jobs / "calib.npz", **draw(24, seed=9))
    assert not any(one.finished for one in plan_batch(good, jobs / "runs").runs)
    (jobs / "calib.npz").write_bytes(kept)  # another time of change, the same bytes
    assert all(one.finished for one in plan_batch(good, jobs / "runs").runs)


def test_status_says_how_far_each_run_is(first: Result, mpsearch: Mpsearch, jobs: Path) -> None:
    found = {row["run"]: row for row in mpsearch("status", jobs / "runs", "--json").json}
    good = found["good_npu-200tops"]
    assert good["state"] == "finished"
    assert good["stages"]["sensitivity"]["peak_bytes"] > 1e6
    assert mpsearch("status", jobs / "runs").code == 0
    bad = mpsearch("status", jobs / "nothing")
    assert bad.code == 1
    assert "must be a run folder" in bad.err


def test_check_says_how_many_runs_a_sweep_is_and_how_long(mpsearch: Mpsearch, jobs: Path) -> None:
    found = mpsearch("check", jobs / "good.toml", "--json").json
    assert found["kind"] == "sweep"
    assert re.search(
        r"2 runs, 0 of them finished .* \d\d evaluations at most, about \d+ s", found["about"]
    )
    bad = mpsearch("check", jobs / "bad.toml")
    assert bad.code == 1
    assert "sweep.sead: no such key" in bad.err


def test_code_that_a_sweep_names_is_not_run_by_a_check(mpsearch: Mpsearch, jobs: Path) -> None:
    (jobs / "code.toml").write_text(
        HEAD + 'device = "npu_200tops"\n[sweep]\nloss = ["quality:os:getpid"]\n'
    )
    found = mpsearch("check", jobs / "code.toml")
    assert found.code == 1
    assert "names code to be run" in found.err
