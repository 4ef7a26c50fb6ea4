"""``mpsearch plan lint``: what a target makes of a plan, before anything is exported."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json


@command
def lint(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="See `mpsearch list targets`.")
    ] = "onnx",
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Its model: sizes, operators and groups are checked."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a target refuses of a plan: then the exit code is 1.

    What it takes at a loss, and what to know of it, is said too.
    """
    from mpsearch.verify.lint import lint_file

    found = lint_file(plan, target, model)
    if as_json:
        print_json(found.to_json())
    else:
        print(found)
    if found.errors:
        raise typer.Exit(1)
