"""``mpsearch report``: a finished run as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json


@command
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file; default: RUN/report.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a finished run again, from the run's files alone."""
    from mpsearch.errors import JobError
    from mpsearch.report.page import write_report
    from mpsearch.runs.report import read_report

    path = out if out is not None else run / "report.html"
    found = read_report(run)
    if not path.parent.is_dir():
        raise JobError(f"{path.name}: its folder {path.parent.name!r} must exist")
    write_report(path, found)
    if as_json:
        from mpsearch.cli.printing.run import row_json

        print_json({"file": path.name, "rows": [row_json(row) for row in found.rows]})
    else:
        print(f"written: {path}")
