"""``mpsearch score``: what a plan loses on any data."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.options import Recalibrate
from mpsearch.cli.printing.tables import print_table


@command
def score(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model that it was made for.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="Data to run: .npz or a folder.")],
    loss: Annotated[
        str | None,
        typer.Option("--loss", help="kl, nll, mse, ctc, …; default: read from model and data."),
    ] = None,
    recalibrate: Recalibrate = False,
    as_json: Json = False,
) -> None:
    """Run a plan on data that it need not have seen, with its own ranges and weights; say what it loses."""
    from mpsearch.data.batches import read_batches
    from mpsearch.plan.files import read_plan
    from mpsearch.plan.score import measure_plan
    from mpsearch.stats.digits import with_error

    found = measure_plan(
        read_plan(plan),
        model,
        read_batches(data),
        loss=loss,
        recalibrate=recalibrate,
    )
    if as_json:
        from mpsearch.cli.printing.run import estimates_json

        print_json(
            {
                "plan": plan.name,
                "samples": found.samples,
                "unit": found.unit,
                "loss": estimates_json({"loss": found.loss})["loss"],
                "scores": estimates_json(found.scores),
                "fp32": estimates_json(found.reference),
            }
        )
        return
    rows = [[f"loss, {found.unit}", with_error(found.loss), "0"]]
    rows += [
        [name, with_error(value), with_error(found.reference[name])]
        for name, value in found.scores.items()
    ]
    print_table(f"{plan.name} on {found.samples} samples", ["measured", "plan", "fp32"], rows)
