"""A run's report shows what its plan took in a runtime beside what was predicted."""

import shutil
from pathlib import Path

import pytest

from mpsearch.errors import PlanError
from mpsearch.plan.files import read_plan
from mpsearch.runs.latencies import MeasuredLatency, find_run_plan, keep_latency, read_latencies
from mpsearch.runs.report import read_report


def test_a_report_shows_predicted_beside_measured_latency(tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    path = next(iter(sorted((run / "plans").glob("*.json"))))
    name = find_run_plan(run, read_plan(path))
    assert read_plan(run / "plans" / name).decisions == read_plan(path).decisions
    for latency in (14.0, 12.5):  # measured again
        keep_latency(
            run,
            MeasuredLatency(
                plan=name,
                runtime="onnxruntime 1.2",
                latency_us=latency,
                stderr_us=0.2,
                float_us=20.0,
                float_stderr_us=0.3,
                predicted_us=13.0,
                device="mine",
            ),
        )
    assert [found.latency_us for found in read_latencies(run)] == [12.5]
    said = read_report(run).facts[f"latency of plans/{name} in onnxruntime 1.2"]
    assert said == (
        "measured 12.5 µs ± 0.2 µs, predicted 13 µs for mine; fp32 measured 20 µs ± 0.3 µs"
    )


def test_an_export_of_another_run_is_refused(tmp_path: Path, finished: Path) -> None:
    plan = read_plan(next((finished / "plans").glob("*.json")))
    (tmp_path / "other" / "plans").mkdir(parents=True)
    with pytest.raises(PlanError, match="other: the exported plan must be one of the run's plans/"):
        find_run_plan(tmp_path / "other", plan)
    assert read_latencies(tmp_path) == ()
