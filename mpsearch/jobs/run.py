"""A job from its files to its plans: stages that each write one file and are skipped when it is there."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from mpsearch.choose.by_quality import DEFAULT_CONFIDENCE, Drop, Keep, Scorer, choose_by_quality
from mpsearch.choose.feasibility import check_limits, constraints
from mpsearch.choose.measured import measure_point, plan_file
from mpsearch.choose.rules import CHOICES, Choice, Rules, choose_plans, least_lossy, refine_front
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.errors import ProblemError
from mpsearch.figures.plan_row import PlanRow, cost_rows, plan_row, reference_row, uniform_points
from mpsearch.jobs.calibrate import calibrated_simulator, note_calibration
from mpsearch.jobs.held_out import held_out_scorer, score_plans
from mpsearch.jobs.interrupted import salvage
from mpsearch.jobs.prepare import Prepared
from mpsearch.jobs.results import Outcome, make_notes, make_report, make_results
from mpsearch.jobs.stage_inputs import (
    Bench,
    Watch,
    batch_contexts,
    cost_inputs,
    evaluation_context,
    front_inputs,
    self_test_inputs,
    table_inputs,
    unwatched,
)
from mpsearch.plan.files import write_plan
from mpsearch.plan.make import make_plan
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Front, Point, read_front, write_front
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs, Progress, Table, read_table, write_costs, write_table
from mpsearch.report.page import write_report
from mpsearch.runs.evaluations import EvaluationStore, StoredSimulator
from mpsearch.runs.graph_file import write_graph
from mpsearch.runs.job import Job
from mpsearch.runs.run_folder import RunFolder, check_run, installed_versions, open_run
from mpsearch.search.find_front import find_front
from mpsearch.search.measured.measure import measure_points, rank_correlation
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.self_test_file import SelfTest, read_self_test, write_self_test
from mpsearch.sensitivity.selftest import self_test
from mpsearch.sensitivity.shared.additivity import additive_residual
from mpsearch.simulate.simulator import Simulator

_PROVEN_POINTS = 40  # of a front whose edges are too entangled to be solved whole


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; says what was kept."""


def run_job(prepared: Prepared, path: Path, *, watch: Watch = unwatched) -> Outcome:
    """Run a job in the folder ``path``, or resume it there, and return what it gives.

    Nothing is written before model, data, space, device and limits are known to fit together. Without
    calibration data only costs and sizes are worked out.

    Args:
        prepared: The job, its files read and checked.
        path: The run folder.
        watch: Told of the progress of each stage.

    Raises:
        MpsearchError: A stage failed; what was measured before is kept in the folder.
        Interrupted: The user pressed Ctrl-C; what was measured is kept, and a front of it was written.
    """
    started = time.perf_counter()
    job = prepared.job
    record = check_run(path, job, prepared.batches)
    costs = estimate_costs(prepared.graph, prepared.space, prepared.device, batch=job.batch)
    check_limits(costs, job.limits.given(), confidence=job.confidence or None)
    if prepared.batches is None:
        return _run_costs(prepared, costs, path, started)
    first = prepared.batches.take(record.calibrated or len(prepared.batches))
    simulator = calibrated_simulator(prepared, first, watch)
    context = evaluation_context(prepared, simulator, first)
    folder = open_run(path, job, prepared.batches)
    with EvaluationStore(folder.file("evaluations.sqlite")) as store:
        batches = batch_contexts(prepared, simulator, first)
        stored = cast(Simulator, StoredSimulator(simulator, store, context, batches, first))
        bench = Bench(prepared, folder, stored, first, store, context, costs, watch)
        folder.update(
            versions=installed_versions(),
            fingerprint={key: str(value) for key, value in simulator.fingerprint.items()},
            batch_size=job.batch_size,
            threads=torch.get_num_threads(),
            seed=job.seed,
            interrupted=True,  # until the end is reached
        )
        try:
            outcome = _run_stages(bench)
        except KeyboardInterrupt:
            raise Interrupted(salvage(bench)) from None
        evaluations = store.count(context)
        folder.update(interrupted=False, evaluations=evaluations)
    return replace(outcome, evaluations=evaluations, seconds=time.perf_counter() - started)


def _run_costs(prepared: Prepared, costs: Costs, path: Path, started: float) -> Outcome:
    folder = open_run(path, prepared.job, None)
    _write_model(folder, prepared, costs)
    folder.update(versions=installed_versions(), seed=prepared.job.seed)
    rows = cost_rows(costs, prepared.space, prepared.graph, costs.allowed)
    notes = ("Without --data only shapes, cost and size are known: no plan was chosen.",)
    return Outcome(costs, tuple(rows), notes, seconds=time.perf_counter() - started)


def _write_model(folder: RunFolder, prepared: Prepared, costs: Costs) -> None:
    graph = prepared.graph
    folder.stage(
        "graph",
        "graph.json",
        {"structure": graph.structure_digest},
        compute=lambda: graph,
        write=write_graph,
    )
    folder.stage(
        "costs", "costs.json", cost_inputs(prepared), compute=lambda: costs, write=write_costs
    )


def _run_stages(bench: Bench) -> Outcome:
    job, folder, simulator = bench.prepared.job, bench.folder, bench.simulator
    graph, space, costs = bench.prepared.graph, bench.prepared.space, bench.costs
    _write_model(folder, bench.prepared, costs)
    table = folder.stage(
        "sensitivity",
        "sensitivity.json",
        table_inputs(bench),
        compute=lambda: score_sensitivity(
            simulator,
            metric=job.metric,
            costs=costs,
            budget=job.budget or None,
            seed=job.seed,
            tolerance=job.tolerance or None,
            progress=bench.watch("sensitivity"),
        ),
        write=write_table,
        read=read_table,
    )
    limits = job.limits.given()
    sure = job.confidence or None
    problem = build_problem(table, costs, constraints=constraints(limits), confidence=sure)
    with _timed(folder, "uniform"):
        uniforms = uniform_points(problem, space, graph, table.allowed & costs.allowed)
        told = bench.watch("uniform")
        for done, (label, point) in enumerate(uniforms.items()):
            told(done, len(uniforms), label)
            uniforms[label] = measure_point(point, simulator)
        told(len(uniforms), len(uniforms), "")
    rivals = {label: point for label, point in uniforms.items() if label != f"uniform {space.base}"}
    inputs = front_inputs(bench)
    found = folder.stage(
        "front",
        "front.json",
        inputs,
        compute=lambda: _search(bench, table, problem, rivals),
        write=write_front,
        read=read_front,
    )
    evaluation = bench.prepared.evaluation
    scorer = None if evaluation is None else held_out_scorer(bench, evaluation)
    drops: tuple[Drop, ...] = ()
    if job.quality and scorer is not None:
        keep = Keep(job.quality, job.max_drop or 0.0, sure or DEFAULT_CONFIDENCE)
        safest = f"uniform {space.base}"
        choice, front, drops = choose_by_quality(
            found,
            simulator,
            scorer,
            keep,
            (safest, uniforms[safest]),
            progress=bench.watch("choose"),
        )
        choices: tuple[Choice, ...] = (choice,)
    else:
        choices, front = choose_plans(
            found,
            simulator,
            limits=limits,
            rivals=rivals,
            rules=_rules(job),
            progress=bench.watch("choose"),
        )
    test = _self_test(bench, table, found) if job.self_test else None
    if front != found:
        seconds = folder.record.stages["front"].seconds
        digest = write_front(front, folder.file("front.json"), inputs)
        folder.note("front", digest=digest, inputs=inputs, seconds=seconds)
    with _timed(folder, "plans"):
        _write_plans(bench, front, choices, uniforms)
    with _timed(folder, "held-out"):
        rows = _score_rows(bench, scorer, choices, uniforms)
    outcome = Outcome(
        costs,
        rows,
        make_notes(bench.prepared, simulator, bench.calibration, table, choices, drops),
        table,
        front,
        choices,
        rank_correlation(front),
        simulator.unit,
        test,
        drops,
    )
    results = make_results(bench.prepared, simulator, outcome)
    folder.update(results=results)
    with _timed(folder, "report"):
        report = make_report(folder.path, folder.record, results)
        write_report(folder.file("report.html"), report)
    return outcome


def _search(bench: Bench, table: Table, problem: Problem, rivals: Mapping[str, Point]) -> Front:
    """The front: an exact one is predicted, then measured here and there; any other is measured."""
    job, simulator = bench.prepared.job, bench.simulator
    told = bench.watch("search")
    seconds = job.time_budget_s or None
    deadline = None if seconds is None else time.monotonic() + seconds
    if job.method != "exact":
        return find_front(
            problem,
            method=job.method,
            evaluator=simulator,
            budget=job.measurements,
            seed=job.seed,
            progress=told,
            time_limit_s=seconds,
        )
    front = _predict(problem, told, seconds)
    front = measure_points(
        front, simulator, count=job.measure, progress=bench.watch("measure"), deadline=deadline
    )
    if job.limits.given() or not rivals:
        return front
    _, rival = least_lossy(rivals)
    return refine_front(
        front,
        table,
        bench.costs,
        rival,
        simulator,
        budget=job.refine,
        rules=_rules(job),
        deadline=deadline,
        seed=job.seed,
        progress=bench.watch("refine"),
    )


def _self_test(bench: Bench, table: Table, front: Front) -> SelfTest:
    """How ``table`` ranks random plans, and the measured points of ``front``."""
    job, simulator = bench.prepared.job, bench.simulator
    along = np.array([p.assignment for p in front.points if "loss" in p.measured], np.int64)

    def write(found: SelfTest, path: Path, *, inputs: Mapping[str, str]) -> str:
        residual = additive_residual(table, found, simulator.unit)
        return write_self_test(found, path, residual=residual, inputs=inputs)

    return bench.folder.stage(
        "self_test",
        "self_test.json",
        self_test_inputs(bench),
        compute=lambda: self_test(
            simulator,
            table,
            n_plans=job.self_test,
            front=along,
            seed=job.seed,
            progress=bench.watch("self-test"),
        ),
        write=write,
        read=read_self_test,
    )


def _rules(job: Job) -> Rules:
    return Rules(job.faster, job.smaller, job.confidence or None)


def _predict(problem: Problem, told: Progress, time_limit_s: float | None) -> Front:
    """The whole front; where edges are too entangled for that, points that are each proven optimal."""
    try:
        return find_front(problem, method="exact", progress=told, time_limit_s=time_limit_s)
    except ProblemError:
        return find_front(
            problem,
            method="milp",
            budget=_PROVEN_POINTS,
            progress=told,
            time_limit_s=time_limit_s,
        )


def _write_plans(
    bench: Bench, front: Front, choices: tuple[Choice, ...], uniforms: Mapping[str, Point]
) -> None:
    """Write the chosen plans, the uniform ones and those of the measured points into ``plans/``.

    A rule that none meets any more, now that there are more samples, leaves no plan.
    """
    measured = (point for point in front.points if "loss" in point.measured)
    named = {plan_file(point).removesuffix(".json"): point for point in measured}
    named |= {choice.name: choice.point for choice in choices}
    named |= {label.replace(" ", "_"): point for label, point in uniforms.items()}
    safest = f"uniform_{bench.prepared.space.base}"
    for name in CHOICES - named.keys():
        (bench.folder.file("plans") / f"{name}.json").unlink(missing_ok=True)
    for name, point in named.items():
        plan = make_plan(point, bench.simulator, costs=bench.costs)
        plan = note_calibration(plan, bench.calibration)
        fallback = f"{safest}.json" if name != safest else ""
        write_plan(replace(plan, fallback=fallback), bench.folder.file("plans") / f"{name}.json")


def _score_rows(
    bench: Bench,
    scorer: Scorer | None,
    choices: tuple[Choice, ...],
    uniforms: Mapping[str, Point],
) -> tuple[PlanRow, ...]:
    """Rows of fp32, the uniform and the chosen plans; with held-out data, scored on them."""
    points = [*uniforms.items(), *((choice.label, choice.point) for choice in choices)]
    if scorer is None:
        return (
            reference_row(bench.costs),
            *(plan_row(label, point) for label, point in points),
        )
    named = [("fp32", None), *((label, point.assignment) for label, point in points)]
    scores = score_plans(scorer, named, bench.watch("held-out"))
    return (
        reference_row(bench.costs, scores[0]),
        *(
            plan_row(label, point, own)
            for (label, point), own in zip(points, scores[1:], strict=True)
        ),
    )


@contextmanager
def _timed(folder: RunFolder, name: str) -> Iterator[None]:
    """Record the time of a stage that keeps its results elsewhere."""
    started = time.perf_counter()
    yield
    folder.note(name, seconds=time.perf_counter() - started)
