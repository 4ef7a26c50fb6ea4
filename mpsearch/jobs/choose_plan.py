"""Choosing a plan from a finished or interrupted run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpsearch.choose.measured import cheapest_within, measure_point, plan_file
from mpsearch.choose.rules_of_thumb import is_rule_label
from mpsearch.errors import JobError, MpsearchError, OutputExistsError
from mpsearch.jobs.calibrate import calibrated_simulator, note_calibration
from mpsearch.jobs.prepare import prepare
from mpsearch.jobs.price import price
from mpsearch.jobs.stage_inputs import Watch, batch_contexts, evaluation_context, unwatched
from mpsearch.plan.files import read_plan, weights_file, write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import RECOVERED, Front, Point, read_front
from mpsearch.problem.ties import Difference, find_better, unpaired
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.job_file import check_trust, read_job
from mpsearch.runs.record import RunRecord, read_record
from mpsearch.runs.sources import locate
from mpsearch.runs.stored_losses import StoredLosses
from mpsearch.search.choose_point import choose_point, upper
from mpsearch.stats.estimates import Estimate, estimate_mean


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a point.

    Attributes:
        limits: Quantity to its greatest value.
        knee: Whether the knee of what is within the limits is taken.
        confidence: Level of the upper bounds that are judged; None: means are.
    """

    limits: Mapping[str, float] = field(default_factory=dict)
    knee: bool = False
    confidence: float | None = None


def choose_written(run: Path, out: Path, wanted: Wanted) -> Plan:
    """Choose among the points and uniform plans that the run measured, and write the plan to ``out``.

    Losses that differ by less than the error of their paired difference are equal; no plan is chosen
    that a uniform one beats.

    Args:
        run: The run folder.
        out: The plan file.
        wanted: What is wanted of the point.

    Raises:
        JobError: The folder is no run, or it measured no point.
        InfeasibleError: No measured point keeps the limits; says the nearest feasible values.
        OutputExistsError: ``out`` exists and is no plan.
    """
    record = read_record(run)
    _check_out(out)
    front = read_front(run / "front.json")
    uniforms = _uniform_points(run, record)
    files = {point.assignment: f"{name}.json" for name, point in uniforms.items()}
    files |= {point.assignment: plan_file(point) for point in front.points if point.measured}
    files = {key: name for key, name in files.items() if (run / "plans" / name).is_file()}
    pool = {p.assignment: p for p in (*uniforms.values(), *front.points) if p.assignment in files}
    if not pool:
        raise JobError(
            f"{run.name}: measured no point of its front; give --model and --data to measure one"
        )
    difference = _stored_difference(run, record)
    point = _choose(replace(front, points=tuple(pool.values())), wanted, difference)
    inside = [
        uniform
        for uniform in uniforms.values()
        if uniform.assignment in files
        and all(upper(uniform.value(k), wanted.confidence) <= v for k, v in wanted.limits.items())
    ]
    while (better := find_better(point, inside, difference)) is not None:
        point = better
    plan = read_plan(run / "plans" / files[point.assignment])
    _write(replace(plan, fallback=""), out)
    return plan


def choose_measured(
    run: Path,
    out: Path,
    wanted: Wanted,
    *,
    model: Path,
    data: Path,
    trust_code: bool = False,
    watch: Watch = unwatched,
) -> Plan:
    """Choose among all points of the run's front, measure the chosen one, and write its plan.

    Args:
        run: The run folder.
        out: The plan file.
        wanted: What is wanted of the point.
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
    costs = price(prepared)
    assert prepared.batches is not None  # `data` was given
    first = prepared.batches.take(record.calibrated or len(prepared.batches))
    simulator = calibrated_simulator(prepared, first, watch)
    context = evaluation_context(prepared, simulator, first)
    with EvaluationStore(run / "evaluations.sqlite") as store:
        batches = batch_contexts(prepared, simulator, first)
        stored = simulator.keep_losses(StoredLosses(store, context, batches))
        costly = {name: value for name, value in wanted.limits.items() if name != "loss"}
        predicted = replace(
            front, points=tuple(replace(point, measured={}) for point in front.points)
        )
        if "loss" in wanted.limits and not wanted.knee:
            inside = tuple(
                point
                for point in front.points
                if all(
                    upper(point.value(k), wanted.confidence) <= limit for k, limit in costly.items()
                )
            )
            if not inside:
                _choose(
                    predicted, replace(wanted, limits=costly)
                )  # says the nearest feasible values
            point, _ = cheapest_within(
                replace(front, points=inside),
                front.names[0],
                wanted.limits["loss"],
                stored,
                confidence=wanted.confidence,
                progress=watch("choose"),
            )
        else:
            point = measure_point(_choose(predicted, wanted), stored)
    plan = note_calibration(make_plan(point, simulator, costs=costs), first)
    _write(plan, out)
    return plan


def _choose(front: Front, wanted: Wanted, difference: Difference = unpaired) -> Point:
    return choose_point(
        front,
        limits=wanted.limits,
        knee=wanted.knee,
        confidence=wanted.confidence,
        difference=difference,
    )


def _uniform_points(run: Path, record: RunRecord) -> dict[str, Point]:
    """File name, without its ending, to measured point of the run's uniform plans and those of its rules.

    A row keeps some of the costs; a plan's file, where there is one, has all.
    """
    found = {}
    for row in () if record.results is None else record.results.rows:
        costs = {
            name: Estimate(value)
            for name in ("latency_us", "weight_bytes", "effective_bits")
            if (value := getattr(row, name)) is not None
        }
        is_rival = row.label.startswith("uniform ") or is_rule_label(row.label)
        if is_rival and row.assignment is not None and row.measured:
            name = row.label.replace(" ", "_")
            file = run / "plans" / f"{name}.json"
            all_costs = read_plan(file).predicted if file.is_file() else {}
            predicted = {**all_costs, **row.predicted, **costs}
            found[name] = Point(row.assignment, predicted, row.measured)
    return found


def _stored_difference(run: Path, record: RunRecord) -> Difference:
    """Differences of losses on the samples that the run's store keeps; of others, as if unpaired."""
    stage = record.stages.get("front")
    context = "" if stage is None else stage.inputs.get("context", "")
    with EvaluationStore(run / "evaluations.sqlite") as store:
        known = dict(store.items(context))

    def compare(first: Point, second: Point) -> Estimate:
        one, other = known.get(first.assignment), known.get(second.assignment)
        if (
            one is None
            or other is None
            or RECOVERED in (first.method, second.method)
            or "slice" in (record.results.unit if record.results else "")
        ):
            return unpaired(first, second)
        return estimate_mean(one - other)

    return compare


def _write(plan: Plan, path: Path) -> None:
    """Write ``plan`` in the place of one that :func:`_check_out` saw, and of its weights."""
    write_plan(plan, path)
    if plan.weights is None:
        weights_file(path).unlink(missing_ok=True)


def _check_out(path: Path) -> None:
    """Refuse to write over what is no plan, or over weights that are no plan's.

    Raises:
        OutputExistsError: There is something else at ``path``.
        JobError: Its folder does not exist.
    """
    earlier = None
    if path.exists():
        try:
            earlier = read_plan(path).weights
        except MpsearchError:
            raise OutputExistsError(
                f"{path.name}: exists and is no plan; give another file with -o"
            ) from None
    weights = weights_file(path)
    if weights.exists() and (earlier is None or earlier.path != weights):
        raise OutputExistsError(
            f"{weights.name}: exists and is not of the plan {path.name!r}; give another file with -o"
        )
    if not path.parent.is_dir():
        raise JobError(f"{path.name}: its folder {path.parent.name!r} must exist")
