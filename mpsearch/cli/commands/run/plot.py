"""``mpsearch plot``: one figure of a finished run as svg, png or pdf, for papers and slides."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json


@command
def plot(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    figure: Annotated[
        str,
        typer.Argument(
            metavar="front|sensitivity|plan|trust|cost|ranges",
            help="Which of the report's figures.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File that ends in .svg, .png or .pdf.")],
    as_json: Json = False,
) -> None:
    """Draw a figure of a finished run: front, sensitivity, plan, trust, cost or ranges."""
    from mpsearch.errors import JobError
    from mpsearch.figures.static import write_figure
    from mpsearch.runs.report import read_report

    if not out.parent.is_dir():
        raise JobError(f"{out.name}: its folder {out.parent.name!r} must exist")
    write_figure(out, figure, read_report(run))
    if as_json:
        print_json({"file": out.name, "figure": figure})
    else:
        print(f"written: {out}")
