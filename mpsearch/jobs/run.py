"""A job from its files to its plans: stages that each write one file and are skipped when it is there."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from mpsearch.choose.by_quality import DEFAULT_CONFIDENCE, Keep, Scorer, choose_by_quality
from mpsearch.choose.feasibility import check_limits, constraints
from mpsearch.choose.rules import Uniforms, choose_plans
from mpsearch.jobs.calibrate import calibrated_simulator
from mpsearch.jobs.held_out import held_out_scorer
from mpsearch.jobs.interrupted import salvage
from mpsearch.jobs.means import ALONE, Means, describe_contexts, threads_of
from mpsearch.jobs.opened import heard, logged, opened_shared
from mpsearch.jobs.prepare import Prepared
from mpsearch.jobs.price import cost_limits, price
from mpsearch.jobs.recovered import RecoveredPlans, recovered_plans, recovered_stage
from mpsearch.jobs.results import Chosen, cost_results, make_results, score_rows, write_plans
from mpsearch.jobs.rivals import measure_uniforms
from mpsearch.jobs.shared_calibration import share_ranges
from mpsearch.jobs.stage_inputs import (
    Bench,
    Watch,
    batch_contexts,
    evaluation_context,
    unwatched,
)
from mpsearch.jobs.stages import (
    costs_stage,
    front_stage,
    graph_stage,
    job_rules,
    self_test_stage,
    sensitivity_stage,
)
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import RECOVERED, Front
from mpsearch.problem.tables import Costs
from mpsearch.report.page import write_report
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.lock import locked
from mpsearch.runs.record import installed_versions
from mpsearch.runs.report import read_report
from mpsearch.runs.run import Run, open_run
from mpsearch.runs.run_folder import RunFolder, begin_run, check_run
from mpsearch.runs.store.layered import LayeredStore
from mpsearch.runs.stored_losses import StoredLosses


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; says what was kept."""


def run_job(
    prepared: Prepared, path: Path, *, watch: Watch = unwatched, means: Means = ALONE
) -> Run:
    """Run a job in the folder ``path``, or resume it there, and return what then lies in it.

    Nothing is written before model, data, space, device and limits are known to fit together. Without
    calibration data only costs and sizes are worked out.

    Args:
        prepared: The job, its files read and checked.
        path: The run folder.
        watch: Told of the progress of each stage.
        means: What it may use beside its folder, which changes no result: workers, a shared store.

    Raises:
        MpsearchError: A stage failed; what was measured before is kept in the folder.
        Interrupted: The user pressed Ctrl-C; what was measured is kept, and a front of it was written.
    """
    started = time.perf_counter()
    check_run(path, prepared.job, prepared.batches)
    costs = price(prepared)
    confidence = prepared.job.confidence or None
    check_limits(costs, cost_limits(prepared, costs), confidence=confidence)
    with logged(path):
        measure = _cost_alone if prepared.batches is None else _measure
        return _finished(measure(prepared, path, costs, watch, means), started)


def _cost_alone(
    prepared: Prepared, path: Path, costs: Costs, watch: Watch, means: Means
) -> RunFolder:
    """Write what is known without data."""
    del watch
    with locked(path, wait=means.wait):
        folder = begin_run(path, prepared.job, None, means.stages)
        _write_model(folder, prepared, costs)
        found = cost_results(prepared, costs)
        folder.update(versions=installed_versions(), seed=prepared.job.seed, results=found)
    return folder


def _measure(prepared: Prepared, path: Path, costs: Costs, watch: Watch, means: Means) -> RunFolder:
    """Run the stages of a job with data; a new folder is made once all is known to fit."""
    job, redo = prepared.job, means.stages
    assert prepared.batches is not None  # the caller saw them
    with ExitStack() as stack:
        shared = stack.enter_context(opened_shared(means))
        lock = stack.enter_context(locked(path, wait=means.wait)) if path.exists() else None
        record = check_run(path, job, prepared.batches)
        stack.enter_context(threads_of(prepared, record.threads, means))
        first = prepared.batches.take(record.calibrated or len(prepared.batches))
        simulator = calibrated_simulator(prepared, first, heard(watch, lock))
        context = evaluation_context(prepared, simulator, first)
        lock = lock or stack.enter_context(locked(path, wait=means.wait))
        folder = begin_run(path, job, prepared.batches, redo)
        own = stack.enter_context(EvaluationStore(folder.file("evaluations.sqlite")))
        store = LayeredStore(own, shared, context)
        batches = batch_contexts(prepared, simulator, first)
        anywhere = batch_contexts(prepared, simulator, first, any_space=True)
        schemes = [repr(scheme) for scheme in prepared.space.schemes]
        about = describe_contexts(prepared, simulator)
        store.share(dict(zip(batches, anywhere, strict=True)), schemes, about)
        share_ranges(store, anywhere, simulator)
        watch, ahead = heard(watch, lock), None
        if means.crew is not None:
            ahead = stack.enter_context(means.crew(simulator, watch("workers")))
        stored = simulator.keep_losses(StoredLosses(store, context, batches, ahead))
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
            _write_model(folder, prepared, costs)
            _run_stages(bench)
        except KeyboardInterrupt:
            raise Interrupted(salvage(bench)) from None
        folder.update(evaluations=store.count(context))
    return folder


def _finished(folder: RunFolder, started: float) -> Run:
    folder.update(interrupted=False, seconds=round(time.perf_counter() - started, 2))
    return open_run(folder.path)


def _write_model(folder: RunFolder, prepared: Prepared, costs: Costs) -> None:
    """Write what was worked out before there was a folder."""
    folder.write(graph_stage(prepared), prepared.graph)
    folder.write(costs_stage(prepared, costs), costs)


def _run_stages(bench: Bench) -> None:
    job, folder = bench.prepared.job, bench.folder
    table = folder.run(sensitivity_stage(bench))
    problem = build_problem(
        table,
        bench.costs,
        constraints=constraints(cost_limits(bench.prepared, bench.costs)),
        confidence=job.confidence or None,
    )
    with folder.timed("uniform"):
        plans = measure_uniforms(bench, table, problem)
    stage = front_stage(bench, table, problem, plans)
    found = folder.run(stage)
    evaluation = bench.prepared.evaluation
    recovered = recovered_plans(bench)
    if recovered is not None:
        stage = recovered_stage(bench, (table, bench.costs), found, plans, recovered)
        found = folder.run(stage)
        for point in found.points:
            if point.method == RECOVERED:
                recovered.recover(point.assignment)
    scorers = None if evaluation is None else partial(held_out_scorer, bench, evaluation)
    scorer = None if scorers is None else scorers(recovered)
    chosen = _choose(
        bench, found, plans if recovered is None else recovered.measured(plans), scorer, recovered
    )
    if job.self_test:
        folder.run(self_test_stage(bench, table, found))
    if chosen.front != found:
        folder.write(stage, chosen.front)
    with folder.timed("plans"):
        write_plans(bench, chosen, plans.candidates, recovered)
    with folder.timed("held-out"):
        rows = score_rows(bench, scorers, chosen.choices, plans.candidates, recovered)
    folder.update(results=make_results(bench, table, chosen, rows))
    with folder.timed("report"):
        write_report(folder.file("report.html"), read_report(folder.path))


def _choose(
    bench: Bench,
    front: Front,
    uniforms: Uniforms,
    scorer: Scorer | None,
    recovered: RecoveredPlans | None,
) -> Chosen:
    """Choose plans by what was measured, or by a test of their quality on held-out data."""
    job = bench.prepared.job
    evaluator = bench.simulator if recovered is None else recovered
    if job.quality and scorer is not None:
        keep = Keep(job.quality, job.max_drop or 0.0, job.confidence or DEFAULT_CONFIDENCE)
        choice, front, drops = choose_by_quality(
            front, evaluator, scorer, keep, uniforms, progress=bench.watch("choose")
        )
        return Chosen((choice,), front, drops)
    choices, front = choose_plans(
        front,
        evaluator,
        limits=job.limits.given(),
        uniforms=uniforms,
        rules=job_rules(job),
        progress=bench.watch("choose"),
    )
    return Chosen(choices, front)
