"""``mpsearch measure``: the plans that people asked a run for are measured."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars
from mpsearch.cli.options import TrustCode


@command
def measure(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The run's model.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="Its calibration data.")],
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Measure the plans that were asked of a run in the dashboard, and write each as a plan of it."""
    from mpsearch.jobs.after.measure_wishes import measure_wishes
    from mpsearch.stats.digits import with_error

    with progress_bars() as watch:
        asked = measure_wishes(run, model=model, data=data, trust_code=trust_code, watch=watch)
    measured = [plan for plan in asked.plans if plan.loss is not None]
    if as_json:
        print_json({"plans": [plan.model_dump(mode="json") for plan in asked.plans]})
        return
    for plan in asked.plans:
        said = plan.trouble if plan.loss is None else f"measured loss {with_error(plan.loss)}"
        print(f"plan of {len(plan.assignment)} groups: {said}")
    print(f"{len(measured)} of {len(asked.plans)} asked plans are measured")
