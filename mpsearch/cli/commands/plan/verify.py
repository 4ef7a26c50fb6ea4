"""``mpsearch verify``: an export in a real runtime, compared with the simulation."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars
from mpsearch.cli.options import Recalibrate


@command
def verify(
    exported: Annotated[Path, typer.Argument(help="Folder that `mpsearch export` wrote.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model of the plan.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="Data to run: .npz or a folder.")],
    runtime: Annotated[
        str, typer.Option("--runtime", "-r", help="See `mpsearch list runtimes`.")
    ] = "reference",
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan; default: the copy in the folder.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=0,
            help="Samples; 0: all; default: 8 in reference, else 128; of --gate all.",
        ),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Run the whole checklist before a deployment.")
    ] = False,
    loss: Annotated[
        str | None,
        typer.Option("--loss", help="Gate: the loss; default: read from model and data."),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option("--max-loss", help="Gate: upper end of the loss; default: the plan's own."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Gate: accuracy that may be lost.")
    ] = 0.01,
    max_slice_ratio: Annotated[
        float, typer.Option("--max-slice-ratio", help="Gate: loss of the worst slice over all.")
    ] = 2.0,
    min_coverage: Annotated[
        float, typer.Option("--min-coverage", help="Gate: share of FLOPs that is decided.")
    ] = 0.9,
    extreme_factor: Annotated[
        float, typer.Option("--extreme-factor", help="Gate: huge inputs over the data's.")
    ] = 100.0,
    recalibrate: Recalibrate = False,
    as_json: Json = False,
) -> None:
    """Run an export, each layer fed the runtime's own inputs; exit code 1 where it differs or a check of --gate fails."""
    from mpsearch.data.batches import read_batches
    from mpsearch.errors import PlanError
    from mpsearch.jobs.calibrate import read_data
    from mpsearch.plan.files import read_plan
    from mpsearch.plan.recalibrate import has_other_weights, recalibrate_plan
    from mpsearch.verify.verify_plan import verify_plan

    if not exported.is_dir():
        raise PlanError(f"{exported.name}: must be a folder that `mpsearch export` wrote")
    made = read_plan(plan if plan is not None else exported / "plan.json")
    batches = read_batches(data) if recalibrate else read_data(data, made)
    if recalibrate and has_other_weights(made, model):
        made = recalibrate_plan(made, model, batches)
    if gate:
        from mpsearch.cli.printing.gate import print_gate
        from mpsearch.verify.gate import Limits
        from mpsearch.verify.run_gate import run_gate

        limits = Limits(
            max_loss,
            max_drop,
            max_slice_ratio,
            min_coverage,
            extreme_factor=extreme_factor,
            loss=loss,
        )
        with progress_bars() as watch:
            judged = run_gate(
                made,
                model,
                exported,
                batches,
                runtime=runtime,
                samples=samples or None,
                limits=limits,
                progress=watch("gate"),
            )
        if as_json:
            print_json(judged.to_json())
        else:
            print_gate(judged)
        if not judged.ok:
            raise PlanError(f"{exported.name} in {runtime}: {judged.verdict}")
        return
    if samples is None:
        samples = 8 if runtime == "reference" else 128  # the reference evaluator is slow
    with progress_bars() as watch:
        found = verify_plan(
            made,
            model,
            exported,
            batches,
            runtime=runtime,
            samples=samples or None,
            progress=watch("verify"),
        )
    if as_json:
        print_json(found.to_json())
    else:
        print(found)
    if not found.ok:
        raise PlanError(f"{exported.name} in {runtime}: {found.difference}")
