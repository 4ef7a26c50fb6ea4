"""``mpsearch drift``: whether a plan still holds on new data."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.printing.tables import print_table


@command
def drift(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model that it was made for.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="New data: .npz or a folder.")],
    loss: Annotated[
        str | None,
        typer.Option("--loss", help="The loss that the plan was measured by; default: from data."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether new data leave a plan's ranges, what that costs; exit code 1 where its loss no longer holds."""
    from mpsearch.data.batches import read_batches
    from mpsearch.errors import PlanError
    from mpsearch.plan.files import read_plan
    from mpsearch.stats.digits import number
    from mpsearch.verify.drift import find_drift

    found = find_drift(read_plan(plan), model, read_batches(data), loss=loss)
    if as_json:
        print_json(found.to_json())
    else:
        rows = [
            [d.layer, d.scheme, *map(number, (d.factor, d.clipped, d.beyond, d.error_added))]
            for d in found.leaving
        ]
        heads = ["layer", "scheme", "× calibrated", "clipped", "× largest", "error added"]
        left = len({d.value for d in found.leaving})
        kept = len({d.value for d in found.layers}) - left
        title = f"{plan.name} on {found.n_samples} samples: {left} ranges are left, {kept} hold"
        print_table(title, heads, rows, text_columns=2)
        print(found.verdict)
    if found.holds is False:
        raise PlanError(f"{plan.name}: {found.verdict}")
