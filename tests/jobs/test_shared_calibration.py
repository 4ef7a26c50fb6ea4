"""Ranges and recovered plans are shared like losses."""

from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.errors import JobError
from mpsearch.jobs.means import Means
from mpsearch.jobs.run import run_job
from mpsearch.jobs.shared_calibration import keep_plan, share_ranges, take_plan
from mpsearch.plan.files import read_plan
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.store.layered import LayeredStore
from mpsearch.runs.store.shared import SharedStore
from tests.jobs.test_interrupted import prepared
from tests.support.small_models import mlp_simulator, random_weights
from tests.support.tiny_job import write_job


def test_losses_of_other_ranges_are_not_mixed(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 8, 3))
    assert simulator.ranges
    with (
        EvaluationStore(tmp_path / "e.sqlite") as own,
        SharedStore(str(tmp_path / "shared.sqlite")) as shared,
    ):
        store = LayeredStore(own, shared)
        share_ranges(store, ["c"], simulator)
        share_ranges(store, ["c"], simulator)
        key, found = next(iter(simulator.ranges.items()))
        simulator.ranges = {**simulator.ranges, key: replace(found, amax=found.amax * 2)}
        with pytest.raises(JobError, match="other ranges than this machine calibrates to"):
            share_ranges(store, ["c"], simulator)
        share_ranges(store, ["other data"], simulator)


def test_a_plan_is_recovered_once_for_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepared(write_job(tmp_path), recovery="bias", finalists=2, refine=0, rules=("none",))
    means = Means(str(tmp_path / "store.sqlite"))
    run_job(job, tmp_path / "first", means=means)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("recovered again")

    monkeypatch.setattr("mpsearch.jobs.recovered.measure_recovery", forbidden)
    run_job(job, tmp_path / "second", means=means)
    fronts = [(tmp_path / name / "front.json").read_bytes() for name in ("first", "second")]
    assert fronts[0] == fronts[1]
    for plan in (tmp_path / "first" / "plans").glob("*.json"):
        other = read_plan(tmp_path / "second" / "plans" / plan.name)
        mine = read_plan(plan)
        assert (mine.weights is None) == (other.weights is None)
        assert mine.decisions == other.decisions


def test_a_plan_without_weights_is_shared_too(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with (
        EvaluationStore(tmp_path / "e.sqlite") as own,
        SharedStore(str(tmp_path / "shared.sqlite")) as shared,
    ):
        store = LayeredStore(own, shared)
        keep_plan(store, "digest", tmp_path / "plan.json")
        assert take_plan(store, "digest", tmp_path / "again.json")
        assert not take_plan(store, "nothing", tmp_path / "none.json")
    assert (tmp_path / "again.json").read_text() == "{}"
    assert not (tmp_path / "none.json").exists()
