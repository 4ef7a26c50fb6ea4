"""``mpsearch ranges``: how large the values are that layers read, and what schemes cut off."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars
from mpsearch.cli.options import TrustCode


@command
def ranges(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The run's model.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="Its calibration data.")],
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Look at the ranges of a run's layers on its calibration data; `plot RUN ranges` and the dashboard draw them."""
    from mpsearch.figures.ranges import say_ranges
    from mpsearch.jobs.after.observe_ranges import FILE, observe_ranges

    with progress_bars() as watch:
        layers = observe_ranges(run, model=model, data=data, trust_code=trust_code, watch=watch)
    if as_json:
        rows = [
            {"layer": la.layer, "amax": la.amax, "zeros": la.zeros, "clipped": dict(la.clipped)}
            for la in layers
        ]
        print_json({"file": FILE, "layers": rows})
    else:
        print(say_ranges(layers))
        print(f"written: {run / FILE}")
