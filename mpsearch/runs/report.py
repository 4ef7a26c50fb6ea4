"""A finished run as the value that its report shows; reading it needs no torch."""

from pathlib import Path

from mpsearch.errors import JobError
from mpsearch.figures.content import Report
from mpsearch.runs.latencies import latency_facts
from mpsearch.runs.run import open_run
from mpsearch.simulate.ranges_file import read_ranges


def read_report(path: Path) -> Report:
    """Return the report of the finished run in the folder ``path``, from its files alone.

    Raises:
        JobError: The run did not reach its end, or had no data.
        ArtifactError: A file of it is missing or damaged.
    """
    run = open_run(path)
    results, table, front = run.results, run.table, run.front
    if results is None or not results.samples or table is None or front is None:
        raise JobError(
            f"{path.name}: a report needs a run that reached its end with data; "
            "run the same search again to go on"
        )
    facts = {"calibration samples": str(results.samples)}
    if results.held_out:
        facts["held-out samples"] = str(results.held_out)
    facts |= {f"plans/{name}": rule for name, rule in results.rules.items()}
    facts |= latency_facts(path)
    points = {point.assignment: point for point in front.points}
    return Report(
        title=run.graph.name.rpartition(".")[0] or run.graph.name,
        model=run.graph.name,
        device=run.costs.device,
        space=results.space,
        batch=run.costs.batch,
        seed=run.job.seed,
        fingerprint=run.record.fingerprint,
        front=front,
        table=table,
        costs=run.costs,
        graph=run.graph,
        rows=results.rows,
        chosen=points.get(results.chosen),
        rank_correlation=None
        if results.correlation is None
        else (results.correlation, results.correlated),
        notes=results.notes,
        facts=facts,
        self_test=run.self_test,
        unit=results.unit,
        run=path.name,
        plan=next((f"plans/{name}" for name in results.rules), ""),
        data=run.job.data,
        by_output=results.by_output,
        by_slice=results.by_slice,
        ranges=read_ranges(path / "ranges.json")[0] if (path / "ranges.json").is_file() else (),
    )
