"""All sub-commands, put together."""

from typing import Annotated

import typer

from mpsearch._version import __version__
from mpsearch.cli.commands.batch.batch import batch
from mpsearch.cli.commands.batch.status import status
from mpsearch.cli.commands.batch.store import app as store_app
from mpsearch.cli.commands.plan.drift import drift
from mpsearch.cli.commands.plan.export import export
from mpsearch.cli.commands.plan.plan import app as plan_app
from mpsearch.cli.commands.plan.recover import recover
from mpsearch.cli.commands.plan.score import score
from mpsearch.cli.commands.plan.train import train
from mpsearch.cli.commands.plan.verify import verify
from mpsearch.cli.commands.prepare.check import check
from mpsearch.cli.commands.prepare.data import data
from mpsearch.cli.commands.prepare.fit import fit
from mpsearch.cli.commands.prepare.init import init
from mpsearch.cli.commands.prepare.inspect import inspect
from mpsearch.cli.commands.prepare.list import list_names
from mpsearch.cli.commands.run.annotate import annotate
from mpsearch.cli.commands.run.dashboard import dashboard
from mpsearch.cli.commands.run.measure import measure
from mpsearch.cli.commands.run.plot import plot
from mpsearch.cli.commands.run.profile import profile
from mpsearch.cli.commands.run.ranges import ranges
from mpsearch.cli.commands.run.report import report
from mpsearch.cli.commands.search.cost import KEYS as COST_KEYS
from mpsearch.cli.commands.search.cost import cost
from mpsearch.cli.commands.search.demo import demo
from mpsearch.cli.commands.search.search import search
from mpsearch.cli.commands.search.sensitivity import KEYS as SENSITIVITY_KEYS
from mpsearch.cli.commands.search.sensitivity import sensitivity
from mpsearch.cli.job_options import add_job_command, first_line

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


app.command("init", short_help=first_line(init))(init)
app.command("data", short_help=first_line(data))(data)
app.command("inspect", short_help=first_line(inspect))(inspect)
add_job_command(app, "sensitivity", sensitivity, SENSITIVITY_KEYS)
add_job_command(app, "cost", cost, COST_KEYS)
add_job_command(app, "search", search)
app.command("batch", short_help=first_line(batch))(batch)
app.command("status", short_help=first_line(status))(status)
app.add_typer(store_app, name="store")
app.add_typer(plan_app, name="plan")
app.command("recover", short_help=first_line(recover))(recover)
app.command("score", short_help=first_line(score))(score)
app.command("export", short_help=first_line(export))(export)
app.command("train", short_help=first_line(train))(train)
app.command("verify", short_help=first_line(verify))(verify)
app.command("drift", short_help=first_line(drift))(drift)
app.command("profile", short_help=first_line(profile))(profile)
app.command("plot", short_help=first_line(plot))(plot)
app.command("report", short_help=first_line(report))(report)
app.command("annotate", short_help=first_line(annotate))(annotate)
app.command("ranges", short_help=first_line(ranges))(ranges)
app.command("dashboard", short_help=first_line(dashboard))(dashboard)
app.command("measure", short_help=first_line(measure))(measure)
app.command("fit", short_help=first_line(fit))(fit)
app.command("list", short_help=first_line(list_names))(list_names)
app.command("check", short_help=first_line(check))(check)
app.command("demo", short_help=first_line(demo))(demo)
