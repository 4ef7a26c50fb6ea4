"""The command line: one sub-command a stage. Heavy packages are imported when a command needs them."""

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 1 an error, 2 usage, 130 Ctrl-C."""
    # Before torch loads OpenMP: waiting threads sleep. Spinning ones cost 25 times the run on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from mpsearch.cli.app import app

        app(prog_name="mpsearch")
    except KeyboardInterrupt:  # while packages are imported; commands handle their own
        print("interrupted: nothing was written", file=sys.stderr)
        sys.exit(130)
