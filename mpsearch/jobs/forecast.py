"""How many evaluations a job takes, and about how long."""

import time
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path

from mpsearch.choose.by_quality import TESTS as QUALITY_TESTS
from mpsearch.choose.feasibility import check_limits
from mpsearch.errors import JobError
from mpsearch.jobs.calibrate import calibrated_simulator
from mpsearch.jobs.prepare import Prepared
from mpsearch.jobs.price import cost_limits, price
from mpsearch.jobs.stage_inputs import Watch, unwatched
from mpsearch.problem.tables import FULL
from mpsearch.registry import find
from mpsearch.runs.job import Job
from mpsearch.runs.run_folder import check_run
from mpsearch.sensitivity.score_sensitivity import full_budget
from mpsearch.space.allowed import uniform
from mpsearch.stats.estimates import Bools

_FRONT_POINTS = 4096  # of a typical exact front: choosing on it by halving measures log2 of that


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a job will take.

    Attributes:
        evaluations: Whole-plan evaluations on calibration data.
        held_out: Whole-plan evaluations on held-out data.
        samples: Calibration samples.
        seconds_each: Time of one evaluation, as measured on one.
        seconds: Time of all.
    """

    evaluations: int
    held_out: int
    samples: int
    seconds_each: float
    seconds: float


def forecast(prepared: Prepared, path: Path, *, watch: Watch = unwatched) -> Forecast:
    """Return how many evaluations ``prepared`` takes and about how long; writes nothing.

    One evaluation is timed, on what the run would be calibrated on. Those that change one group only can be faster;
    what a run that is resumed measured before is not taken off.

    Args:
        prepared: The job.
        path: The folder that the run would go into; one that exists is of the same job.
        watch: Gives progress.

    Raises:
        JobError: The job has no data, so there is nothing to evaluate, or the folder is another job's.
        OutputExistsError: The folder is no run's.
        InfeasibleError: Its limits cannot be met.
    """
    job = prepared.job
    if prepared.batches is None:
        raise JobError("a dry run times an evaluation and needs calibration data; give --data")
    record = check_run(path, job, prepared.batches)
    costs = price(prepared)
    check_limits(costs, cost_limits(prepared, costs), confidence=job.confidence or None)
    return count_evaluations(prepared, time_one(prepared, record.calibrated, watch))


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """One evaluation of a model on its data, timed.

    Attributes:
        allowed: [G, S] what each group may take.
        seconds: How long it took.
    """

    allowed: Bools
    seconds: float


def time_one(prepared: Prepared, calibrated: int = 0, watch: Watch = unwatched) -> Timed:
    """Calibrate a job's model and time an evaluation of a uniform plan.

    Args:
        prepared: The job, with data.
        calibrated: Samples to calibrate to; 0: all.
        watch: Gives progress.
    """
    assert prepared.batches is not None  # the caller saw them
    first = prepared.batches.take(calibrated or len(prepared.batches))
    simulator = calibrated_simulator(prepared, first, watch)
    narrow = [name for name in prepared.space.names if name != prepared.space.base]
    chosen = narrow[0] if narrow else prepared.space.base
    plan = uniform(prepared.space, prepared.graph, chosen, simulator.allowed)
    started = time.perf_counter()
    simulator.losses(plan)
    return Timed(simulator.allowed, time.perf_counter() - started)


def count_evaluations(prepared: Prepared, timed: Timed) -> Forecast:
    """Return how many evaluations a job takes at most, and how long those are."""
    job, data = prepared.job, prepared.evaluation
    assert prepared.batches is not None  # it was timed on them
    n_groups, n_schemes = timed.allowed.shape
    entries = int(timed.allowed.sum()) - n_groups
    searching = job.measure if find("searchers", job.method).predicts else job.measurements or 100
    choosing = ceil(log2(_FRONT_POINTS)) if job.limits.given() else job.refine
    evaluations = _scoring(job, entries, n_schemes) + searching + choosing + n_schemes
    tests = QUALITY_TESTS if job.quality else 0
    held_out = n_schemes + 3 + tests if data is not None else 0
    ratio = len(data) / len(prepared.batches) if data is not None else 0.0
    return Forecast(
        evaluations,
        held_out,
        len(prepared.batches),
        timed.seconds,
        timed.seconds * (evaluations + held_out * ratio),
    )


def _scoring(job: Job, entries: int, n_schemes: int) -> int:
    """Evaluations that the metric takes at most."""
    if job.budget == FULL:
        return full_budget(entries)
    usual = (
        entries + 1 if find("metrics", job.metric).measures else min(entries, 6 * (n_schemes + 6))
    )
    return job.measurements or usual
