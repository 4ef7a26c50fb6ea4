"""``mpsearch dashboard``: runs in the browser of this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.options import TrustCode


@command
def dashboard(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of runs.")],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 0,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="The model, for exports and measuring.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Calibration data, for measuring.")
    ] = None,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Look at runs, compare them, choose a plan and take it away, in a browser of this machine."""
    from mpsearch.dashboard.measuring import Measuring
    from mpsearch.dashboard.serve import open_dashboard
    from mpsearch.errors import JobError

    for path in (*runs, model, data):
        if path is not None and not path.exists():
            raise JobError(f"{path.name}: must exist, but was not found")
    served = open_dashboard(runs, port, Measuring(model, data, trust_code))
    if as_json:
        print_json({"link": served.link})
    else:
        print(f"dashboard: {served.link}")
        print("for you alone: whoever has the link can look; Ctrl-C ends it")
    sys.stdout.flush()
    try:
        served.run()
    except KeyboardInterrupt:
        print("\nthe dashboard has ended", file=sys.stderr)
    finally:
        served.close()
