"""All sub-commands, put together."""

from typing import Annotated

import typer

from mpsearch import __version__
from mpsearch.cli.check import check
from mpsearch.cli.costs import cost
from mpsearch.cli.data import data
from mpsearch.cli.demo import demo
from mpsearch.cli.export import export
from mpsearch.cli.init import init
from mpsearch.cli.inspect import inspect
from mpsearch.cli.lists import list_names
from mpsearch.cli.plan import app as plan_app
from mpsearch.cli.report import report
from mpsearch.cli.search import search
from mpsearch.cli.sensitivity import sensitivity
from mpsearch.cli.verify import verify

app = typer.Typer(
    name="mpsearch",
    help="Which layer may run in which number format, on this hardware, at what cost in accuracy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mpsearch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Which layer may run in which number format, on this hardware, at what cost in accuracy."""


app.command("init")(init)
app.command("data")(data)
app.command("inspect")(inspect)
app.command("sensitivity")(sensitivity)
app.command("cost")(cost)
app.command("search")(search)
app.add_typer(plan_app, name="plan")
app.command("export")(export)
app.command("verify")(verify)
app.command("report")(report)
app.command("list")(list_names)
app.command("check")(check)
app.command("demo")(demo)
