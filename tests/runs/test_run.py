"""A run folder, opened again."""

import json
from pathlib import Path

import pytest

import mpsearch as mp
from mpsearch.errors import JobError
from tests.support.command_line import SEARCH, Mpsearch


def test_an_opened_run_gives_all_that_lies_in_it(finished: Path) -> None:
    run = mp.open_run(finished)
    assert run.job.model == run.graph.name == "tiny.onnx"
    assert run.table is not None
    assert run.front is not None
    assert run.results is not None
    assert run.costs.groups == run.table.groups == run.front.groups
    assert run.plans.keys() >= {"safe", "uniform_fp8"}
    chosen = next(point for point in run.front.points if point.assignment == run.results.chosen)
    assert run.plans[next(iter(run.results.rules)).removesuffix(".json")].measured == (
        chosen.measured
    )
    assert run.self_test is None
    assert run.record.stages["front"].inputs["confidence"] == "0.0"


def test_a_run_without_data_has_no_table_and_no_front(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    made = mpsearch(
        "search", tiny / "tiny.onnx", "--device", "npu_200tops", "-o", tmp_path / "run", "--json"
    )
    run = mp.open_run(tmp_path / "run")
    assert run.table is None
    assert run.front is None
    assert run.results is not None
    assert [row["label"] for row in made.json["rows"]] == [row.label for row in run.results.rows]
    assert "with data" in mpsearch("report", tmp_path / "run").err


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="must be a run folder, made by `mpsearch search`"):
        mp.open_run(tmp_path)


def test_a_folder_of_an_earlier_version_goes_on_where_it_stopped(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files named fewer inputs then, and parameters as one digest."""
    run = tmp_path / "run"
    command = [*SEARCH(tiny), "--refine", 0, "-o", run]
    assert mpsearch(*command).code == 0
    for name in ("sensitivity", "front"):
        envelope = json.loads((run / f"{name}.json").read_text())
        kept = {
            key: value
            for key, value in envelope["inputs"].items()
            if key in ("context", "space", "sensitivity")
        }
        envelope["inputs"] = kept | {"settings": "a digest of keys of the job"}
        (run / f"{name}.json").write_text(json.dumps(envelope))

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("mpsearch.jobs.stages.score_sensitivity", forbidden)
    monkeypatch.setattr("mpsearch.jobs.stages.find_front", forbidden)
    assert mpsearch(*command).code == 0
