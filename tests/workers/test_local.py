"""Workers change no result: whatever their number, and whatever becomes of one."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mpsearch.jobs.means import Crew, Means
from mpsearch.jobs.run import run_job
from mpsearch.problem.tables import Progress
from mpsearch.runs.sources import Sources
from mpsearch.simulate.loss_store import Ahead
from mpsearch.simulate.simulator import Simulator
from mpsearch.workers.local import local_crew
from mpsearch.workers.recipe import measure_one
from tests.jobs.test_interrupted import prepared
from tests.support.tiny_job import write_job


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("workers"))


def crew(folder: Path, count: int, said: list[str]) -> Crew:
    made = prepared(folder)
    sources = Sources(folder / "tiny.onnx", folder / "calib.npz", None, "h100_sxm5_80gb", "")
    return local_crew(made.job, sources, count, said.append)


def front(folder: Path, run: Path, made: Crew) -> bytes:
    job = prepared(folder, refine=8, self_test=8, method="exact")
    run_job(job, run, means=Means(crew=made))
    return (run / "front.json").read_bytes() + (run / "self_test.json").read_bytes()


@pytest.fixture(scope="module")
def alone(tiny: Path) -> bytes:
    return front(tiny, tiny / "alone", crew(tiny, 1, []))


def test_three_workers_give_the_same_front_as_one(tiny: Path, alone: bytes) -> None:
    assert front(tiny, tiny / "three", crew(tiny, 3, [])) == alone


def test_a_worker_that_is_killed_loses_nothing(tiny: Path, alone: bytes) -> None:
    said: list[str] = []
    plain = crew(tiny, 2, said)

    @contextmanager
    def deadly(simulator: Simulator, told: Progress) -> Iterator[Ahead]:
        with plain(simulator, told) as workers:

            def killing(done: int, total: int, text: str) -> None:
                told(done, total, text)
                if done == 3 and not said:
                    os.kill(workers._workers[1].process.pid, signal.SIGKILL)

            workers._told = killing
            yield workers

    assert front(tiny, tiny / "killed", deadly) == alone
    assert said
    assert "worker 1 was ended by SIGKILL" in said[0]


def test_what_kills_every_worker_is_marked_and_the_search_goes_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(simulator: Simulator, assignment: tuple[int, ...], batch: int) -> bytes | str | None:
        if assignment[0] == 1:
            os._exit(3)
        return measure_one(simulator, assignment, batch)

    monkeypatch.setattr("mpsearch.workers.local.measure_one", dying)
    said: list[str] = []
    job = prepared(tiny, metric="perturbation", refine=0)
    run = run_job(job, tiny / "lost", means=Means(crew=crew(tiny, 2, said)))
    assert run.table is not None
    table = run.table
    assert not table.allowed[0, 1]
    why = table.reasons[table.groups[0], table.schemes[1]]
    assert why == "cannot be measured: 3 workers died of it: ended with exit code 3"
    assert table.allowed[1, 1]
    assert run.results is not None


def test_losses_of_a_task_are_those_of_the_simulator(tiny: Path) -> None:
    from mpsearch.jobs.calibrate import calibrated_simulator

    made = prepared(tiny)
    assert made.batches is not None
    simulator = calibrated_simulator(made, made.batches)
    plan = np.zeros(len(simulator.groups), np.int64)
    raw = measure_one(simulator, tuple(plan.tolist()), 1)
    assert isinstance(raw, bytes)
    np.testing.assert_array_equal(np.frombuffer(raw), simulator.losses(plan, [1]))
