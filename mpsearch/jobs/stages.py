"""The stages of a run, each with all that it reads: graph, costs, sensitivities, front, self-test."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpsearch.choose.measured import paired
from mpsearch.choose.rules import Effort, Rules, Uniforms, refine_front
from mpsearch.deadline import deadline_in
from mpsearch.errors import ProblemError
from mpsearch.graph.model import ModelGraph
from mpsearch.jobs.prepare import Prepared
from mpsearch.jobs.stage_inputs import Bench
from mpsearch.problem.front import Front, read_front, write_front
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import (
    Costs,
    Progress,
    Table,
    read_costs,
    read_table,
    write_costs,
    write_table,
)
from mpsearch.registry import find
from mpsearch.runs.graph_file import read_graph, write_graph
from mpsearch.runs.job import Job
from mpsearch.runs.job_tables import OwnSettings
from mpsearch.runs.run_folder import Stage, parameters
from mpsearch.search.find_front import find_front
from mpsearch.search.measured.measure import measure_points
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.self_test_file import SelfTest, read_self_test, write_self_test
from mpsearch.sensitivity.selftest import self_test
from mpsearch.sensitivity.shared.additivity import additive_residual

PLAIN_FRONT = "plain_front"
"""The front of a search whose finalists are then recovered."""

_PROVEN_POINTS = 40  # of a front whose edges are too entangled to be solved whole


def graph_stage(prepared: Prepared) -> Stage[ModelGraph]:
    """Return the stage that gives ``graph.json``."""
    job, graph = prepared.job, prepared.graph
    return Stage(
        "graph",
        {
            "structure": graph.structure_digest,
            "space": job.digests["space"],
            **parameters(job, "shapes", *_said_axes(job)),
        },
        compute=lambda: graph,
        write=write_graph,
        read=read_graph,
    )


def _said_axes(job: Job) -> tuple[str, ...]:
    """Return the key that names batch axes where it says anything: older runs lack it."""
    return ("batch_axes",) if job.batch_axes else ()


def _said_tokens(job: Job) -> tuple[str, ...]:
    """Return the keys of phases that say anything: older runs lack them."""
    return tuple(key for key in ("tokens", "mix") if getattr(job, key))


def costs_stage(prepared: Prepared, costs: Costs) -> Stage[Costs]:
    """Return the stage that gives ``costs.json``; ``costs`` were worked out to judge the job's limits."""
    job = prepared.job
    return Stage(
        "costs",
        {
            "structure": prepared.graph.structure_digest,
            "device": job.digests["device"],
            "space": job.digests["space"],
            **parameters(job, "batch", "schemes", "keep", "base", "recovery", "target", "shapes"),
            **parameters(job, *_said_axes(job), *_said_tokens(job)),
        },
        compute=lambda: costs,
        write=write_costs,
        read=read_costs,
    )


def sensitivity_stage(bench: Bench) -> Stage[Table]:
    """Return the stage that gives ``sensitivity.json``, once costs are there."""
    job = bench.prepared.job
    return Stage(
        "sensitivity",
        {
            "context": bench.context,
            "space": job.digests["space"],
            "costs": bench.folder.digest("costs"),
            **parameters(job, "metric", "budget", "tolerance", "seed", "keep", "target"),
            **_own("sensitivity", job.sensitivity),
        },
        compute=lambda: score_sensitivity(
            bench.simulator,
            metric=job.metric,
            costs=bench.costs,
            budget=job.budget or None,
            settings=job.metric_settings,
            seed=job.seed,
            progress=bench.watch("sensitivity"),
        ),
        write=write_table,
        read=read_table,
    )


def front_stage(bench: Bench, table: Table, problem: Problem, uniforms: Uniforms) -> Stage[Front]:
    """Return the stage that gives ``front.json``, once sensitivities and costs are there.

    Where finalists are to be recovered that is ``plain_front.json``.

    Args:
        bench: The run.
        table: Its sensitivities.
        problem: They and the costs, under the job's limits.
        uniforms: The uniform plans, measured.
    """
    job = bench.prepared.job
    return Stage(
        PLAIN_FRONT if job.recovers else "front",
        {
            "context": bench.context,
            "sensitivity": bench.folder.digest("sensitivity"),
            "costs": bench.folder.digest("costs"),
            **parameters(job, "method", "budget", "measure", "refine", "seed", "limits"),
            **parameters(job, "confidence", "faster", "smaller", "time_budget_s"),
            **parameters(job, *_said_objectives(job)),
            **_own("search", job.search),
        },
        compute=lambda: _search(bench, table, problem, uniforms),
        write=write_front,
        read=read_front,
    )


def _said_objectives(job: Job) -> tuple[str, ...]:
    """Return the key that names the front's objectives where they are not the usual ones."""
    return () if job.objectives == ("latency_us", "loss") else ("objectives",)


def self_test_stage(bench: Bench, table: Table, front: Front) -> Stage[SelfTest]:
    """Return the stage that gives ``self_test.json``, once the front is there.

    Args:
        bench: The run.
        table: Its sensitivities, which are tested on random plans.
        front: Its measured points are tested on as well.
    """
    job, simulator = bench.prepared.job, bench.simulator

    def compute() -> SelfTest:
        along = np.array([p.assignment for p in front.points if "loss" in p.measured], np.int64)
        return self_test(
            simulator,
            table,
            n_plans=job.self_test,
            front=along,
            seed=job.seed,
            progress=bench.watch("self-test"),
        )

    def write(found: SelfTest, path: Path, *, inputs: Mapping[str, str]) -> str:
        residual = additive_residual(table, found, simulator.unit)
        return write_self_test(found, path, residual=residual, inputs=inputs)

    return Stage(
        "self_test",
        {
            "context": bench.context,
            "sensitivity": bench.folder.digest("sensitivity"),
            "front": bench.folder.digest("front"),
            **parameters(job, "self_test", "seed"),
        },
        compute=compute,
        write=write,
        read=read_self_test,
    )


def _own(key: str, told: OwnSettings) -> dict[str, str]:
    """Return a plug-in's own settings as one more input; none where none are told."""
    return {key: json.dumps(told.settings, sort_keys=True)} if told.settings else {}


def job_rules(job: Job) -> Rules:
    """Return how the job's plans are chosen."""
    return Rules(job.faster, job.smaller, job.confidence or None)


def _search(bench: Bench, table: Table, problem: Problem, uniforms: Uniforms) -> Front:
    """The front: an exact one is predicted, then measured here and there; any other is measured."""
    job, simulator = bench.prepared.job, bench.simulator
    told = bench.watch("search")
    seconds = job.time_budget_s or None
    deadline = deadline_in(seconds)
    if not find("searchers", job.method).predicts:
        return find_front(
            problem,
            method=job.method,
            objectives=job.objectives,
            evaluator=simulator,
            budget=job.measurements,
            settings=job.search.settings,
            seed=job.seed,
            progress=told,
            time_limit_s=seconds,
        )
    front = _predict(problem, job, told)
    front = measure_points(
        front, simulator, count=job.measure, progress=bench.watch("measure"), deadline=deadline
    )
    if job.limits.given() or not uniforms.rivals:
        return front
    _, rival = uniforms.best(paired(simulator))
    return refine_front(
        front,
        table,
        bench.costs,
        rival,
        simulator,
        Effort(job.refine, deadline, job.seed),
        rules=job_rules(job),
        progress=bench.watch("refine"),
    )


def _predict(problem: Problem, job: Job, told: Progress) -> Front:
    """The whole front; where edges are too entangled for that, points that are each proven optimal."""
    time_limit_s = job.time_budget_s or None
    try:
        return find_front(
            problem,
            method=job.method,
            objectives=job.objectives,
            settings=job.search.settings,
            progress=told,
            time_limit_s=time_limit_s,
        )
    except ProblemError:
        return find_front(
            problem,
            method="milp",
            objectives=job.objectives,
            budget=_PROVEN_POINTS,
            progress=told,
            time_limit_s=time_limit_s,
        )
