"""``mpsearch search``: from a model and data to a front, plans and a report."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpsearch.cli.console import Json, Watch, print_json, progress_bars
from mpsearch.cli.job_options import Asked, read_asked
from mpsearch.cli.means import Durable, From, Ray, Store, Wait, Workers

if TYPE_CHECKING:
    from mpsearch.jobs.prepare import Prepared


def search(
    asked: Asked,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many evaluations, and about how long.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/MODEL.")
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    store: Store = None,
    durable: Durable = False,
    stage: From = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Search the whole front, measure points of it, choose plans and write a report.

    A run folder of the same job is resumed, with more samples too; any other existing folder is refused.
    """
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.run import run_job
    from mpsearch.workers.crews import Wanted, make_means

    job, sources = read_asked(asked)
    prepared = prepare(job, sources)
    _say_not_offered(prepared)
    folder = out if out is not None else Path("runs") / sources.model.stem
    with progress_bars() as watch:
        if dry_run:
            _say_forecast(prepared, folder, watch, as_json)
            return
        wanted = Wanted(workers, ray or "", store or "", durable, stage or "", wait)
        means = make_means(job, sources, folder, wanted)
        run = run_job(prepared, folder, watch=watch, means=means)
    from mpsearch.cli.printing.run import print_run, run_json

    if as_json:
        print_json(run_json(run))
    else:
        print_run(run, model=str(sources.model), data=str(sources.data or ""))


def _say_not_offered(prepared: "Prepared") -> None:
    """Say on stderr what no export could write, before anything is measured."""
    from mpsearch.jobs.not_offered import find_not_offered

    target = prepared.space.target
    for found in find_not_offered(prepared.graph, prepared.space):
        who = f"{target} does not take" if target else "no exporter can write"
        if found.exporters:
            who = f"only {', '.join(found.exporters)} can write, give --target,"
        print(f"not searched, {who} {found}", file=sys.stderr)


def _say_forecast(prepared: "Prepared", folder: Path, watch: Watch, as_json: bool) -> None:
    from mpsearch.jobs.forecast import forecast
    from mpsearch.jobs.not_offered import find_not_offered

    found = forecast(prepared, folder, watch=watch)
    if as_json:
        print_json(
            {
                "evaluations": found.evaluations,
                "samples": found.samples,
                "held_out_evaluations": found.held_out,
                "seconds_per_evaluation": found.seconds_each,
                "seconds": found.seconds,
                "not_offered": [
                    asdict(left) for left in find_not_offered(prepared.graph, prepared.space)
                ],
            }
        )
        return
    print(
        f"about {found.evaluations} evaluations of {found.samples} samples, "
        f"{found.seconds_each:.2f} s each, and {found.held_out} on held-out data: "
        f"about {found.seconds:.0f} s. Nothing was written."
    )
