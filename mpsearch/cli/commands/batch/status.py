"""``mpsearch status``: how far runs are."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.printing.tables import print_table

if TYPE_CHECKING:
    from mpsearch.runs.status import Status

_EVERY_S = 2.0


@command
def status(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run folders, or folders that hold some.")
    ],
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds until none is running.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how far runs are: running, finished, failed, interrupted or died, with times and peak memory."""
    from mpsearch.runs.status import find_runs, read_status

    while True:
        found = [read_status(path) for path in find_runs(runs)]
        if as_json:
            print_json([_as_json(one) for one in found])
        else:
            _print(found)
        if not watch or not any(one.state == "running" for one in found):
            return
        time.sleep(_EVERY_S)


def _as_json(one: "Status") -> dict[str, Any]:
    at = one.holder
    return {
        "run": one.name,
        "state": one.state,
        "stage": at.stage if at else "",
        "done": at.done if at else 0,
        "total": at.total if at else 0,
        "pid": at.pid if at else None,
        "host": at.host if at else None,
        "evaluations": one.evaluations,
        "seconds": one.seconds,
        "stages": {
            name: {"seconds": seconds, "peak_bytes": peak}
            for name, (seconds, peak) in one.stages.items()
        },
        "said": one.said,
    }


def _print(found: "list[Status]") -> None:
    rows = []
    for one in found:
        at = one.holder
        peak = max((bytes_ for _, bytes_ in one.stages.values()), default=0)
        stage = f"{at.stage} {at.done}/{at.total}" if at and at.stage else ", ".join(one.stages)
        seconds = one.seconds or sum(seconds for seconds, _ in one.stages.values())
        rows.append(
            [
                one.name,
                one.state,
                one.said if one.state in ("failed", "interrupted") else stage,
                str(one.evaluations),
                f"{seconds:.1f}",
                f"{peak / 1e6:.0f}",
            ]
        )
    columns = ["run", "state", "stage", "evaluations", "seconds", "peak MB"]
    print_table("runs", columns, rows, text_columns=3)
