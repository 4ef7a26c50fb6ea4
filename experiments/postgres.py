"""A PostgreSQL server of one's own for as long as a block runs: Debian's package, started as an unprivileged user."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USER = "postgres"
_WAIT_S = 60.0


def find_binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL that is installed, None without any."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    path = shutil.which("postgres")
    return None if path is None else Path(path).parent


def can_serve() -> bool:
    """Return whether a server can be started here: it is installed, and there is a user who may."""
    if find_binaries() is None:
        return False
    if os.geteuid() != 0:
        return True
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return False
    return True


@contextmanager
def server(database: str = "mpsearch") -> Iterator[str]:
    """Yield the URL of a database on a new server, which is gone afterwards with all its files.

    Raises:
        RuntimeError: PostgreSQL is not installed, or does not start.
    """
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("PostgreSQL must be installed: apt-get install postgresql")
    user = _USER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="mpsearch-postgres-"))
    data = folder / "data"
    if user:
        shutil.chown(folder, user)

    def run(name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(binaries / name), *arguments], user=user, capture_output=True, text=True, cwd="/"
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip() or done.stdout.strip()}")

    run("initdb", "-D", str(data), "-U", "mp", "--auth=trust", "--no-sync", "-E", "UTF8")
    port = _free_port()
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    process = subprocess.Popen(
        [str(binaries / "postgres"), "-D", str(data), *options, "-c", "fsync=off"],
        user=user,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + _WAIT_S
        while True:
            try:
                run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mp", database)
                break
            except RuntimeError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield f"postgresql://mp@127.0.0.1:{port}/{database}"
    finally:
        process.send_signal(signal.SIGINT)  # fast: clients are not waited for
        process.wait(timeout=_WAIT_S)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
