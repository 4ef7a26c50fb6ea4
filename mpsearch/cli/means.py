"""Options of what a run may use beside its folder: workers, a cluster, a shared store."""

from typing import Annotated

import typer

_PANEL = "Workers and shared store"
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Processes that measure, one thread each unless the job says otherwise; their number changes no result.",
        rich_help_panel=_PANEL,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|auto",
        help="Measure on a Ray cluster: its address, or auto for the one of this machine.",
        rich_help_panel=_PANEL,
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="MPSEARCH_STORE",
        show_envvar=True,
        metavar="PATH|URL",
        help="Losses that all runs share: an SQLite file, or postgresql://…; never written into a file.",
        rich_help_panel=_PANEL,
    ),
]
Durable = Annotated[
    bool,
    typer.Option(
        "--durable",
        help="What is written to the store also survives a loss of power.",
        rich_help_panel=_PANEL,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="Compute this stage again and all that follow, from measured losses: graph, costs, sensitivity, front, self_test.",
        rich_help_panel=_PANEL,
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait for another process that works in the run folder.",
        rich_help_panel=_PANEL,
    ),
]
