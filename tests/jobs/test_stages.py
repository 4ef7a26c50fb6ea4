"""Stages declare all that they read."""

from pathlib import Path

import pytest

from mpsearch.jobs.run import run_job
from mpsearch.jobs.stages import Stage
from mpsearch.runs.job import Job
from mpsearch.runs.run_folder import RunFolder
from tests.jobs.test_interrupted import prepared
from tests.support.tiny_job import write_job

ELSEWHERE = {  # name of a key to the input that stands for it
    "digests": "context",
    "measurements": "budget",
}
OPTIONAL = {"search", "sensitivity"}  # inputs of the stage that reads them, where they are told


@pytest.mark.parametrize("method", ["exact", "random"])
def test_every_key_of_the_job_that_a_stage_reads_is_among_its_inputs(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, set[str]] = {}
    inputs: dict[str, set[str]] = {}
    keys = set(Job.model_fields) | {"measurements"}
    whole = RunFolder.run

    def watched(self: RunFolder, stage: Stage[object]) -> object:
        found = read[stage.name] = set()
        inputs[stage.name] = set(stage.inputs)
        plain = Job.__getattribute__

        def noted(job: Job, name: str) -> object:
            if name in keys:
                found.add(ELSEWHERE.get(name, name))
            return plain(job, name)

        with monkeypatch.context() as patch:
            patch.setattr(Job, "__getattribute__", noted)
            return whole(self, stage)

    monkeypatch.setattr(RunFolder, "run", watched)
    folder = write_job(tmp_path)
    job = prepared(folder, method=method, budget=30, self_test=20, refine=8)
    run_job(job, tmp_path / "run")
    assert read.keys() == {"sensitivity", "front", "self_test"}
    for name, found in read.items():
        assert found
        assert found <= inputs[name] | OPTIONAL, name


def test_settings_of_a_plug_in_are_inputs_where_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: dict[str, dict[str, str]] = {}
    whole = RunFolder.run

    def noted(self: RunFolder, stage: Stage[object]) -> object:
        inputs[stage.name] = dict(stage.inputs)
        return whole(self, stage)

    monkeypatch.setattr(RunFolder, "run", noted)
    told = {
        "metric": "perturbation",
        "search": {"settings": {"eps": 0.5}},
        "sensitivity": {"settings": {"tolerance": 0.4}},
    }
    run_job(prepared(write_job(tmp_path), refine=0, **told), tmp_path / "run")
    assert inputs["front"]["search"] == '{"eps": 0.5}'
    assert inputs["sensitivity"]["sensitivity"] == '{"tolerance": 0.4}'
