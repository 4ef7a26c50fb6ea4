"""``mpsearch export``: a plan as what a runtime takes."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.options import Recalibrate


@command
def export(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model that it was made for.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    target: Annotated[
        str,
        typer.Option("--target", "-t", help="Runtime or exporter: see `mpsearch list targets`."),
    ] = "onnx",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            help="Calibration data: to recalibrate, or for old plans without weights.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Hugging Face folder of the model, or its config.json, for checkpoints.",
        ),
    ] = None,
    recalibrate: Recalibrate = False,
    as_json: Json = False,
) -> None:
    """Write a plan and its model as what a consumer takes, into a folder that appears whole."""
    from mpsearch.data.batches import read_batches
    from mpsearch.errors import PlanError
    from mpsearch.export.export_plan import export_plan
    from mpsearch.jobs.calibrate import read_data
    from mpsearch.plan.files import read_plan

    made = read_plan(plan)
    if data is None and "recovery" in made.requires and not recalibrate:
        raise PlanError(
            f"{plan.name}: it is of an earlier version and brings no recovered weights; give the calibration data with --data"
        )
    batches = None
    if data is not None:
        batches = read_batches(data) if recalibrate else read_data(data, made)
    files = export_plan(
        made,
        model,
        out,
        target=target,
        batches=batches,
        config=config,
        recalibrate=recalibrate,
    )
    if as_json:
        print_json({"target": target, "files": [path.name for path in files]})
    else:
        print("written: " + ", ".join(str(path) for path in files))
