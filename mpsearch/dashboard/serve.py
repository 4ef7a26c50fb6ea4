"""Serving the dashboard on this machine alone."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsearch.dashboard.measuring import Measuring
from mpsearch.errors import JobError, MissingExtraError

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """A dashboard with its socket open.

    Attributes:
        link: The address that opens it, with its token.
        server: Serves.
        measuring: What it was given to measure with.
    """

    link: str
    server: Any
    measuring: Measuring

    def run(self) -> None:
        """Serve until interrupted or closed."""
        self.server.serve_forever()

    def close(self) -> None:
        """Close the socket, and end what is being measured."""
        self.measuring.stop()
        self.server.server_close()


def open_dashboard(
    paths: Sequence[Path], port: int = 0, measuring: Measuring | None = None
) -> Served:
    """Return a dashboard of the runs at ``paths``, listening on 127.0.0.1.

    Args:
        paths: Run folders, or folders of runs.
        port: 0 takes a free one.
        measuring: The model and data that it may measure and export with.

    Raises:
        MissingExtraError: Dash is not installed.
        JobError: The port is taken.
    """
    try:
        from werkzeug.serving import WSGIRequestHandler, make_server

        from mpsearch.dashboard.app import make_dashboard
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mpsearch"):
            raise
        raise MissingExtraError(
            f"the dashboard needs the package {error.name!r}; install it with: pip install 'mpsearch[dashboard]'"
        ) from error
    from mpsearch.dashboard.opened import Runs

    class Quiet(WSGIRequestHandler):
        """Logs no requests: their lines would hold the token."""

        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            """Log nothing."""

    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise JobError(f"port {port} of this machine cannot be taken: {error.strerror}") from None
    number = listening.getsockname()[1]
    measuring = measuring or Measuring()
    made = make_dashboard(Runs(paths), number, measuring)
    server = make_server(
        HOST, number, made.server, threaded=True, request_handler=Quiet, fd=listening.detach()
    )
    return Served(made.guard.link, server, measuring)
