"""Stages declare all that they read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mpsearch.jobs.calibrate import calibrated_simulator
from mpsearch.jobs.run import run_job
from mpsearch.jobs.stage_inputs import batch_contexts, evaluation_context
from mpsearch.jobs.stages import Stage
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.job import Job
from mpsearch.runs.run_folder import RunFolder
from mpsearch.runs.stored_losses import StoredLosses
from mpsearch.simulate.changes import Changes
from tests.jobs.test_interrupted import prepared
from tests.support.tiny_job import write_job

ELSEWHERE = {  # name of a key to the input that stands for it
    "digests": "context",
    "measurements": "budget",
}
OPTIONAL = {
    "objectives",
    "search",
    "sensitivity",
}  # inputs of the stage that reads them, where they are told


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


def test_losses_of_a_changed_model_are_kept_apart_in_the_store(tmp_path: Path) -> None:
    made = prepared(write_job(tmp_path))
    assert made.batches is not None
    simulator = calibrated_simulator(made, made.batches)
    changed = [simulator.change(Changes(biases={0: torch.full((16,), by)})) for by in (0.1, 0.2)]
    contexts = [
        (evaluation_context(made, s, made.batches), *batch_contexts(made, s, made.batches))
        for s in (simulator, *changed)
    ]
    assert len({key for keys in contexts for key in keys}) == sum(map(len, contexts))
    chosen = np.zeros(len(simulator.groups), np.int64)
    with EvaluationStore(tmp_path / "kept.sqlite") as store:
        kept = [
            s.keep_losses(StoredLosses(store, keys[0], keys[1:])).loss(chosen).mean
            for s, keys in zip((simulator, *changed), contexts, strict=True)
        ]
    assert len(set(kept)) == 3
    assert kept == [s.loss(chosen).mean for s in (simulator, *changed)]
