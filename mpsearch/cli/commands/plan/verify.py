"""``mpsearch verify``: an export in a real runtime, compared with the simulation."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars


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
            "--samples", min=0, help="Samples; 0: all; default: 8 in reference, else 128."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run an export, each layer fed the runtime's own inputs; exit code 1 where it differs."""
    from mpsearch.errors import PlanError
    from mpsearch.jobs.calibrate import read_data
    from mpsearch.plan.files import read_plan
    from mpsearch.verify.verify_plan import verify_plan

    if not exported.is_dir():
        raise PlanError(f"{exported.name}: must be a folder that `mpsearch export` wrote")
    made = read_plan(plan if plan is not None else exported / "plan.json")
    batches = read_data(data, made)
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
