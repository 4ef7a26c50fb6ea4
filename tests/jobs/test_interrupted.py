"""What is left of a run that is stopped keeps what the whole run would keep."""

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.jobs.prepare import Prepared, prepare
from mpsearch.jobs.run import Interrupted, run_job
from mpsearch.problem.front import read_front
from mpsearch.problem.tables import Progress
from mpsearch.runs.job import Job
from mpsearch.runs.record import read_record
from mpsearch.runs.sources import Sources
from tests.support.tiny_job import write_job


def prepared(folder: Path, **settings: object) -> Prepared:
    job = Job(
        model="tiny.onnx",
        data="calib.npz",
        device="h100_sxm5_80gb",
        batch_size=8,
        measure=4,
        **settings,
    )
    sources = Sources(folder / "tiny.onnx", folder / "calib.npz", None, "h100_sxm5_80gb", "")
    return prepare(job, sources)


def interrupt(stage: str) -> Progress:
    """A watch that stops the run once the table is complete."""

    def told(done: int, total: int, text: str) -> None:
        if stage == "measure":
            raise KeyboardInterrupt

    return told


def stop(job: Prepared, run: Path) -> None:
    with pytest.raises(Interrupted, match="run the same command again to go on"):
        run_job(job, run, watch=interrupt)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("salvage"))


def plans(run: Path) -> set[tuple[int, ...]]:
    return {point.assignment for point in read_front(run / "front.json").points}


def test_limits_are_kept_at_the_confidence_that_was_asked_for(tiny: Path, tmp_path: Path) -> None:
    stop(prepared(tiny), tmp_path / "free")
    means = [
        p.predicted["latency_us"].mean for p in read_front(tmp_path / "free/front.json").points
    ]
    job = prepared(tiny)
    costs = estimate_costs(job.graph, job.space, job.device)
    share = costs.stderr["latency_us"][0, 0] / costs.objectives["latency_us"][0, 0]
    limits = {"latency_us": np.median(means) * (1 + NormalDist().inv_cdf(0.95) * share)}

    stop(prepared(tiny, limits=limits), tmp_path / "unsure")
    stop(prepared(tiny, limits=limits, confidence=0.95), tmp_path / "sure")
    run_job(prepared(tiny, limits=limits, confidence=0.95), tmp_path / "whole")
    chosen = {
        read_record(tmp_path / "whole").results.chosen
    }  # may be a uniform plan beside the front
    assert plans(tmp_path / "sure") | chosen == plans(tmp_path / "whole")
    assert plans(tmp_path / "sure") < plans(tmp_path / "unsure")
