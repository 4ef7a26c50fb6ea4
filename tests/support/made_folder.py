"""A run folder of a run that never happened: all its files, written without a model or a measurement."""

from pathlib import Path

import numpy as np

from mpsearch.artifacts import write_artifact
from mpsearch.choose.measured import plan_file
from mpsearch.figures.content import Report
from mpsearch.plan.files import write_plan
from mpsearch.plan.plan import Covered, Decision, Plan, site_of
from mpsearch.problem.front import Point, write_front
from mpsearch.problem.tables import write_costs, write_table
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.graph_file import write_graph
from mpsearch.runs.job import Job
from mpsearch.runs.job_file import write_job
from mpsearch.runs.record import Results, RunRecord, StageRecord
from mpsearch.schemes import SCHEMES
from mpsearch.simulate.ranges_file import write_ranges

CONTEXT = "c" * 64
SAMPLES = 24


def plan_of(report: Report, point: Point) -> Plan:
    """The plan of a point, without ranges and weights."""
    schemes = report.front.schemes
    chosen = {
        layer: schemes[s]
        for group, s in zip(report.graph.groups, point.assignment, strict=True)
        for layer in group.layers
    }
    covered = report.graph.coverage
    return Plan(
        model=report.graph.name,
        structure_digest=report.graph.structure_digest,
        weights_digest="1" * 64,
        shapes={"x": (None, 3, 48, 192)},
        base="fp16",
        schemes={name: SCHEMES[name] for name in sorted({*chosen.values(), "fp16"})},
        decisions=tuple(
            Decision(site_of(layer), chosen[i]) for i, layer in enumerate(report.graph.layers)
        ),
        ranges=(),
        coverage=Covered(
            covered.parameters, covered.total_parameters, covered.flops, covered.total_flops, 6.0
        ),
        predicted=point.predicted,
        measured=point.measured,
        unit=report.unit,
        device=report.device,
        batch=report.batch,
        method=point.method,
    )


def losses_of(mean: float, seed: int = 0) -> np.ndarray:
    """[SAMPLES] losses of that mean."""
    drawn = np.random.default_rng(seed).exponential(max(mean, 1e-9), SAMPLES)
    return drawn * mean / drawn.mean()


def write_run(report: Report, folder: Path, *, finished: bool = True, device: str = "") -> Path:
    """Write ``report`` as the run in ``folder``; one that is not finished has no front and no results yet."""
    (folder / "plans").mkdir(parents=True)
    job = Job(
        model=report.graph.name,
        data="calib.npz",
        device=device or report.device,
        space="npu",
        batch=report.batch,
        digests={"model": "2" * 64, "data": "3" * 64},
    )
    write_job(job, folder / "job.toml")
    stages = {
        "graph": StageRecord(digest=write_graph(report.graph, folder / "graph.json"), seconds=0.5),
        "costs": StageRecord(digest=write_costs(report.costs, folder / "costs.json"), seconds=0.1),
    }
    record = RunRecord(
        stages=stages, seed=report.seed, samples=SAMPLES, batch_size=8, interrupted=not finished
    )
    inputs = {"context": CONTEXT}
    digest = write_table(report.table, folder / "sensitivity.json", inputs=inputs)
    stages["sensitivity"] = StageRecord(digest=digest, inputs=inputs, seconds=2.0)
    if finished:
        digest = write_front(report.front, folder / "front.json", inputs)
        stages["front"] = StageRecord(digest=digest, inputs=inputs, seconds=9.0)
        measured = [point for point in report.front.points if point.measured]
        with EvaluationStore(folder / "evaluations.sqlite") as store:
            for i, point in enumerate(measured):
                store.put(CONTEXT, point.assignment, losses_of(point.measured["loss"].mean, i))
        for point in measured:
            write_plan(plan_of(report, point), folder / "plans" / plan_file(point))
        assert report.chosen is not None
        write_plan(plan_of(report, report.chosen), folder / "plans" / "fast.json")
        record = record.model_copy(
            update={
                "evaluations": len(measured),
                "seconds": 12.0,
                "results": Results(
                    space=report.space,
                    samples=SAMPLES,
                    held_out=0,
                    unit=report.unit,
                    rows=report.rows,
                    chosen=report.chosen.assignment,
                    rules={"fast.json": "16 % faster than uniform fp8 at no more loss"},
                    correlation=report.rank_correlation[0] if report.rank_correlation else None,
                    correlated=report.rank_correlation[1] if report.rank_correlation else 0,
                    notes=report.notes,
                ),
            }
        )
    if report.ranges:
        write_ranges(folder / "ranges.json", report.ranges, SAMPLES)
    write_artifact(folder / "run.json", "run", record.model_copy(update={"stages": stages}))
    return folder
