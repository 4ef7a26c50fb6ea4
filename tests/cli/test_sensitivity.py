"""``mpsearch sensitivity``: tables, agreement, self-test, time, more data, code of the user's own."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mpsearch.problem.tables import read_table
from mpsearch.program.program import Values
from mpsearch.simulate.runner import Runner
from tests.support.tiny_job import draw

Mpsearch = Callable[..., Any]


@pytest.fixture
def command(tiny: Path) -> list[object]:
    return ["sensitivity", tiny / "tiny.onnx", "--data", tiny / "calib.npz", "--batch-size", 8]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the batches that were run forward, in order."""
    run: list[int] = []
    run_batch = Runner.run_batch

    def counted(self: Runner, feed: Any, schemes: tuple[int, ...], batch: int) -> Values:
        run.append(batch)
        return run_batch(self, feed, schemes, batch)

    monkeypatch.setattr(Runner, "run_batch", counted)
    return run


def test_the_table_is_printed_and_written(
    command: list[object], tmp_path: Path, mpsearch: Mpsearch
) -> None:
    out = tmp_path / "s.json"
    result = mpsearch(*command, "-o", out)
    assert result.code == 0, result.err
    assert "calibrated (nats)" in result.out
    assert "stem" in result.out
    table = read_table(out)
    assert table.details["measured"].max() == 1
    assert table.groups[0] == "stem"


def test_several_metrics_are_compared_in_agreement_and_cost(
    command: list[object], mpsearch: Mpsearch
) -> None:
    names = ["perturbation", "fisher", "sqnr"]
    found = mpsearch(*command, "--compare", ",".join(names), "--json").json
    assert found["metrics"] == names
    for kind in ("entries", "plans"):
        matrix = np.array(found["agreement"][kind])
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.diag(matrix).tolist() == [1, 1, 1]
        assert matrix[0, 1] > 0.5
    assert all(table["seconds"] > 0 for table in found["tables"])
    assert found["tables"][0]["evaluations"] > found["tables"][2]["evaluations"]
    printed = mpsearch(*command, "--compare", "sqnr,fisher").out
    assert "fisher (plans)" in printed


def test_the_self_test_ranks_measured_plans(
    command: list[object], tmp_path: Path, mpsearch: Mpsearch
) -> None:
    page = tmp_path / "s.html"
    options = ["--self-test", 12, "--device", "h100_sxm5_80gb", "--html", page]
    found = mpsearch(*command, *options, "--json").json["self_test"]
    assert sum(not along for along in found["along_front"]) == 12
    assert found["overall"]["spearman"]["n"] == 12
    assert found["front"]["spearman"]["n"] >= 3
    assert found["useful"]["spearman"]["low"] <= found["useful"]["spearman"]["high"]
    assert found["additive_residual"] > 0
    printed = mpsearch(*command, "--self-test", 12).out
    assert "dding up leaves" in printed
    assert "not saturated" in printed
    assert "along the front" not in printed  # no device was named, so there is no front
    text = page.read_text()
    assert "figure-table0" in text
    assert "figure-test0" in text
    assert "http-equiv" in text


@pytest.mark.parametrize(
    "metric", ["perturbation", "weight_only", "model_output_perturbation", "kl"]
)
def test_more_samples_measure_only_the_new_ones(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch, counted: list[int], metric: str
) -> None:
    np.savez(tmp_path / "calib.npz", **draw(128, seed=5, labels=metric == "kl"))
    store = tmp_path / "losses.sqlite"
    command = [
        "sensitivity", tiny / "tiny.onnx", "--data", tmp_path / "calib.npz", "--batch-size", 16,
        "--json", "--metric", metric,
    ]  # fmt: skip
    assert mpsearch(*command, "--samples", 64, "--store", store).code == 0
    assert set(counted) == {0, 1, 2, 3}
    first = len(counted)
    counted.clear()
    more = mpsearch(*command, "--samples", 128, "--store", store).json
    assert set(counted) == {4, 5, 6, 7}
    assert len(counted) == first
    counted.clear()
    again = mpsearch(*command, "--samples", 128, "--store", store).json
    assert counted == []
    assert again["values"] == more["values"]
    assert "ranges are those of the first 64 samples" in more["notes"][0]
    assert max(max(filter(None, row)) for row in more["details"]["samples"]) == 128


def test_metrics_that_measure_otherwise_share_a_store_without_meeting(
    command: list[object], tmp_path: Path, mpsearch: Mpsearch
) -> None:
    names = "perturbation,weight_only,model_output_perturbation"
    alone = mpsearch(*command, "--compare", names, "--json").json["tables"]
    options = ["--compare", names, "--store", tmp_path / "losses.sqlite", "--json"]
    assert mpsearch(*command, *options).code == 0
    again = mpsearch(*command, *options).json["tables"]
    for table, expected in zip(again, alone, strict=True):
        assert table["values"] == expected["values"]
        assert table["stderr"] == expected["stderr"]


def test_a_time_budget_returns_what_is_finished(command: list[object], mpsearch: Mpsearch) -> None:
    found = mpsearch(*command, "--metric", "perturbation", "--time-budget", 0, "--json").json
    assert "time budget" in found["notes"][0]
    assert all(row[1:] == [None] * (len(row) - 1) for row in found["values"])
    assert any("time budget" in why for _, _, why in found["reasons"])


def test_a_full_budget_measures_plans_too(command: list[object], mpsearch: Mpsearch) -> None:
    usual, full = (mpsearch(*command, *more, "--json").json for more in ([], ["--budget", "full"]))
    entries = sum(value or 0 for row in usual["details"]["measured"] for value in row)
    assert entries + 1 <= usual["evaluations"] < full["evaluations"]
    assert full["evaluations"] <= 2 * entries


def test_a_tolerance_may_stop_early(command: list[object], mpsearch: Mpsearch) -> None:
    found = mpsearch(*command, "--metric", "perturbation", "--tolerance", 0.45, "--json").json
    assert "stopped at 16 of 24 samples" in found["notes"][0]


def test_a_quality_of_the_users_own_is_measured(
    command: list[object], mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("own_quality")
    module.top = lambda outputs, batch: outputs["y"].max(-1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_quality", module)
    found = mpsearch(*command, "--quality", "own_quality:top", "--json").json
    assert found["unit"] == "drop of top"
    refused = mpsearch(*command, "--quality", "own_quality:top", "--metric", "fisher")
    assert refused.code == 1
    assert "has no gradient" in refused.err


def test_code_that_a_job_file_names_is_not_run_unless_trusted(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("own_quality")
    module.top = lambda outputs, batch: outputs["y"].max(-1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_quality", module)
    job = tmp_path / "job.toml"
    job.write_text(
        'model = "tiny.onnx"\ndevice = "npu_200tops"\nloss = "quality:own_quality:top"\nbatch_size = 8\n'
    )
    files = ["--model", tiny / "tiny.onnx", "--data", tiny / "calib.npz"]
    refused = mpsearch("sensitivity", job, *files)
    assert refused.code == 1
    assert "--trust-code" in refused.err
    trusted = mpsearch("sensitivity", job, *files, "--trust-code", "--json")
    assert trusted.code == 0, trusted.err
    assert trusted.json["unit"] == "drop of top"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", "sqnr,magic"], "metric must be one of"),
        (["--metric", "sqnr", "--time-budget", 1], "metric sqnr cannot stop early"),
        (["--compare", "sqnr,fisher", "-o", "x.json"], "-o writes one table"),
        (["--quality", "accuracy", "--loss", "kl"], "not both"),
        (["--budget", "all"], "budget: must be a number of at least 0, or \"full\", got 'all'"),
        (["--loss", "kl:worst_slice"], "must hold an array 'slice'"),
    ],
)
def test_a_mistake_is_one_line(
    command: list[object], mpsearch: Mpsearch, options: list[object], message: str
) -> None:
    result = mpsearch(*command, *options)
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") - result.err.count("calibrate:") <= 3


def test_a_run_with_a_self_test_reports_it(tiny: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    run = tmp_path / "run"
    result = mpsearch(
        "search", tiny / "tiny.onnx", "--data", tiny / "calib.npz", "--device", "npu_200tops",
        "--batch-size", 8, "--self-test", 10, "--refine", 5, "-o", run,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert (run / "self_test.json").is_file()
    assert "dding up leaves" in result.out
    assert "dding up leaves" in (run / "report.html").read_text()
    assert mpsearch("check", run / "self_test.json").out.startswith("self_test.json: a self-test")
    assert "figure-selftest" in (run / "report.html").read_text()
    assert "Half of the plans" in (run / "report.html").read_text()
