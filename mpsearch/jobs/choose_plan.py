"""Choosing a plan from a finished or interrupted run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mpsearch.choose.measured import cheapest_within, measure_point, plan_file
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.errors import JobError, MpsearchError, OutputExistsError
from mpsearch.jobs.calibrate import calibrated_simulator, note_calibration
from mpsearch.jobs.prepare import prepare
from mpsearch.jobs.stage_inputs import Watch, batch_contexts, evaluation_context, unwatched
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import read_front
from mpsearch.runs.evaluations import EvaluationStore, StoredLosses
from mpsearch.runs.job import check_trust, locate, read_job
from mpsearch.runs.record import read_record
from mpsearch.search.choose_point import choose_point, upper


def choose_written(
    run: Path,
    out: Path,
    *,
    limits: Mapping[str, float],
    knee: bool = False,
    confidence: float | None = None,
) -> Plan:
    """Choose among the points that the run measured, and write the plan to ``out``.

    Args:
        run: The run folder.
        out: The plan file.
        limits: Quantity to its greatest value.
        knee: Take the knee of what is within the limits.
        confidence: Judge by upper bounds at this level; None: by means.

    Raises:
        JobError: The folder is no run, or it measured no point.
        InfeasibleError: No measured point keeps the limits; says the nearest feasible values.
        OutputExistsError: ``out`` exists and is no plan.
    """
    read_record(run)
    _check_out(out)
    front = read_front(run / "front.json")
    measured = tuple(
        point
        for point in front.points
        if "loss" in point.measured and (run / "plans" / plan_file(point)).is_file()
    )
    if not measured:
        raise JobError(
            f"{run.name}: measured no point of its front; give --model and --data to measure one"
        )
    point = choose_point(
        replace(front, points=measured), limits=limits, knee=knee, confidence=confidence
    )
    plan = read_plan(run / "plans" / plan_file(point))
    write_plan(replace(plan, fallback=""), out)
    return plan


def choose_measured(
    run: Path,
    out: Path,
    *,
    limits: Mapping[str, float],
    knee: bool = False,
    confidence: float | None = None,
    model: Path,
    data: Path,
    trust_code: bool = False,
    watch: Watch = unwatched,
) -> Plan:
    """Choose among all points of the run's front, measure the chosen one, and write its plan.

    Args:
        run: The run folder.
        out: The plan file.
        limits: Quantity to its greatest value.
        knee: Take the knee of what is within the limits.
        confidence: Judge by upper bounds at this level; None: by means.
        model: The model of the run.
        data: Its calibration data.
        trust_code: Whether functions that the run's job names may be run.
        watch: Told of progress.

    Raises:
        JobError: The folder is no run, or model or data are not its own.
        InfeasibleError: No point keeps the limits; says the nearest feasible values.
        OutputExistsError: ``out`` exists and is no plan.
    """
    record = read_record(run)
    _check_out(out)
    job = read_job(run / "job.toml").model_copy(
        update={"eval": "", "quality": "", "max_drop": None}
    )
    if not trust_code:
        check_trust(job, run.name)
    prepared = prepare(job, locate(job, run, model=model, data=data))
    front = read_front(run / "front.json")
    costs = estimate_costs(prepared.graph, prepared.space, prepared.device, batch=job.batch)
    assert prepared.batches is not None  # `data` was given
    first = prepared.batches.take(record.calibrated or len(prepared.batches))
    simulator = calibrated_simulator(prepared, first, watch)
    context = evaluation_context(prepared, simulator, first)
    with EvaluationStore(run / "evaluations.sqlite") as store:
        batches = batch_contexts(prepared, simulator, first)
        stored = simulator.keep_losses(StoredLosses(store, context, batches))
        costly = {name: value for name, value in limits.items() if name != "loss"}
        predicted = replace(
            front, points=tuple(replace(point, measured={}) for point in front.points)
        )
        if "loss" in limits and not knee:
            inside = tuple(
                point
                for point in front.points
                if all(upper(point.value(k), confidence) <= limit for k, limit in costly.items())
            )
            if not inside:
                choose_point(
                    predicted, limits=costly, confidence=confidence
                )  # says the nearest feasible values
            point, _ = cheapest_within(
                replace(front, points=inside),
                front.names[0],
                limits["loss"],
                stored,
                confidence=confidence,
                progress=watch("choose"),
            )
        else:
            chosen = choose_point(predicted, limits=limits, knee=knee, confidence=confidence)
            point = measure_point(chosen, stored)
    plan = note_calibration(make_plan(point, simulator, costs=costs), first)
    write_plan(plan, out)
    return plan


def _check_out(path: Path) -> None:
    """Refuse to write over what is no plan.

    Raises:
        OutputExistsError: There is something else at ``path``.
        JobError: Its folder does not exist.
    """
    if path.exists():
        try:
            read_plan(path)
        except MpsearchError:
            raise OutputExistsError(
                f"{path.name}: exists and is no plan; give another file with -o"
            ) from None
    if not path.parent.is_dir():
        raise JobError(f"{path.name}: its folder {path.parent.name!r} must exist")
