"""Measuring the plans that people asked a run for, on its own data, and writing each as a plan of the run."""

from pathlib import Path

import numpy as np

from mpsearch.choose.measured import measure_point, plan_file
from mpsearch.errors import JobError, MpsearchError
from mpsearch.jobs.calibrate import calibrated_simulator, note_calibration
from mpsearch.jobs.prepare import prepare
from mpsearch.jobs.price import price
from mpsearch.jobs.stage_inputs import Watch, batch_contexts, evaluation_context, unwatched
from mpsearch.plan.files import write_plan
from mpsearch.plan.make import make_plan
from mpsearch.problem.build import build_problem
from mpsearch.problem.tables import read_table
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.job_file import check_trust, read_job
from mpsearch.runs.lock import locked
from mpsearch.runs.record import read_record
from mpsearch.runs.sources import locate
from mpsearch.runs.stored_losses import StoredLosses
from mpsearch.runs.watched.wishes import Wish, Wishes, note_wish, read_wishes
from mpsearch.search.measured.points import make_points


def measure_wishes(
    run: Path, *, model: Path, data: Path, trust_code: bool = False, watch: Watch = unwatched
) -> Wishes:
    """Measure every plan that waits in the queue of ``run``, and return the queue with what became of them.

    Args:
        run: The run folder.
        model: The model of the run.
        data: Its calibration data.
        trust_code: Whether functions that the run's job names may be run.
        watch: Told of progress.

    Raises:
        JobError: The folder is no run or is being worked on, or model or data are not its own.
    """
    record = read_record(run)
    if not any(plan.waits for plan in read_wishes(run).plans):
        return read_wishes(run)
    job = read_job(run / "job.toml").model_copy(
        update={"eval": "", "quality": "", "max_drop": None}
    )
    if not trust_code:
        check_trust(job, run.name)
    prepared = prepare(job, locate(job, run, model=model, data=data))
    if prepared.batches is None:
        raise JobError(f"{run.name}: measuring needs the run's calibration data")
    costs = price(prepared)
    problem = build_problem(read_table(run / "sensitivity.json"), costs)
    first = prepared.batches.take(record.calibrated or len(prepared.batches))
    simulator = calibrated_simulator(prepared, first, watch)
    context = evaluation_context(prepared, simulator, first)
    told = watch("measure")
    with locked(run), EvaluationStore(run / "evaluations.sqlite") as store:
        batches = batch_contexts(prepared, simulator, first)
        stored = simulator.keep_losses(StoredLosses(store, context, batches))
        done = 0
        while waiting := [plan for plan in read_wishes(run).plans if plan.waits]:
            wanted = waiting[0].assignment
            try:
                if len(wanted) != problem.n_groups or max(wanted) >= problem.n_schemes:
                    raise JobError("it is not a plan of this run")
                (point,) = make_points(problem, np.array([wanted], np.int64), method="wishes")
                point = measure_point(point, stored)
                plan = note_calibration(make_plan(point, simulator, costs=costs), first)
                write_plan(plan, run / "plans" / plan_file(point))
                note_wish(run, Wish(assignment=wanted, loss=point.measured["loss"]))
            except MpsearchError as error:
                note_wish(run, Wish(assignment=wanted, trouble=str(error)))
            done += 1
            told(done, done + len(waiting) - 1, "")
    return read_wishes(run)
