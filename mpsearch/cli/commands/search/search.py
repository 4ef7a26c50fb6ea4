"""``mpsearch search``: from a model and data to a front, plans and a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpsearch.cli import options as opt
from mpsearch.cli.console import Json, Watch, command, print_json, progress_bars

if TYPE_CHECKING:
    from mpsearch.jobs.prepare import Prepared


@command
def search(
    target: opt.Target,
    data: opt.Data = None,
    evaluation: opt.Eval = None,
    device: opt.Device = None,
    space: opt.Space = None,
    schemes: opt.Schemes = None,
    keep: opt.Keep = None,
    base: opt.Base = None,
    recovery: opt.Recovery = None,
    runtime: opt.Runtime = None,
    shape: opt.Shapes = None,
    loss: opt.Loss = None,
    metric: opt.Metric = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Search; see `mpsearch list searchers`.")
    ] = None,
    batch: opt.Batch = None,
    batch_size: opt.BatchSize = None,
    samples: opt.Samples = None,
    budget: opt.Budget = None,
    measure: Annotated[
        int | None, typer.Option("--measure", min=0, help="Points of the front to measure.")
    ] = None,
    self_test: Annotated[
        int | None,
        typer.Option("--self-test", min=0, help="Random plans measured to test the table."),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option("--refine", min=0, help="Measurements spent on better points to choose."),
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option("--time-budget", min=0, help="Seconds for the front's search.")
    ] = None,
    confidence: opt.Confidence = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            help="Score a plan must keep on held-out data: accuracy, nll, loss, MODULE:FUNCTION.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", min=0, help="What --quality may lose, with confidence."),
    ] = None,
    trust_code: opt.TrustCode = False,
    max_latency_us: opt.MaxLatency = None,
    max_weight_bytes: opt.MaxBytes = None,
    max_effective_bits: opt.MaxBits = None,
    max_loss: opt.MaxLoss = None,
    own: opt.Set = None,
    seed: opt.Seed = None,
    threads: opt.Threads = None,
    max_memory: opt.MaxMemory = None,
    model: opt.Model = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many evaluations, and about how long.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/MODEL.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search the whole front, measure points of it, choose plans and write a report.

    A run folder of the same job is resumed, with more samples too; any other existing folder is refused.
    """
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.run import run_job

    given = {
        "device": device,
        "space": space,
        "schemes": schemes,
        "keep": tuple(keep) if keep else None,
        "base": base,
        "recovery": recovery,
        "target": runtime,
        "shapes": shape or None,
        "loss": loss,
        "metric": metric,
        "method": method,
        "batch": batch,
        "batch_size": batch_size,
        "samples": samples,
        "budget": opt.parse_budget(budget),
        "measure": measure,
        "refine": refine,
        "self_test": self_test,
        "time_budget_s": time_budget,
        "confidence": confidence,
        "quality": quality,
        "max_drop": max_drop,
        "max_latency_us": max_latency_us,
        "max_weight_bytes": max_weight_bytes,
        "max_effective_bits": max_effective_bits,
        "max_loss": max_loss,
        "set": own or None,
        "seed": seed,
        "threads": threads,
        "max_memory": max_memory,
    }
    job, sources = opt.make_job(
        target, given, model=model, data=data, evaluation=evaluation, trust_code=trust_code
    )
    prepared = prepare(job, sources)
    folder = out if out is not None else Path("runs") / sources.model.stem
    with progress_bars() as watch:
        if dry_run:
            _say_forecast(prepared, watch, as_json)
            return
        run = run_job(prepared, folder, watch=watch)
    from mpsearch.cli.printing.run import print_run, run_json

    if as_json:
        print_json(run_json(run))
    else:
        print_run(run)


def _say_forecast(prepared: "Prepared", watch: Watch, as_json: bool) -> None:
    from mpsearch.jobs.forecast import forecast

    found = forecast(prepared, watch=watch)
    if as_json:
        print_json(
            {
                "evaluations": found.evaluations,
                "held_out_evaluations": found.held_out,
                "seconds_per_evaluation": found.seconds_each,
                "seconds": found.seconds,
            }
        )
        return
    print(
        f"about {found.evaluations} evaluations of {found.samples} samples, "
        f"{found.seconds_each:.2f} s each, and {found.held_out} on held-out data: "
        f"about {found.seconds:.0f} s. Nothing was written."
    )
