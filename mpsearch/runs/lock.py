"""One process a run folder: a lock that ends with its process, and says whose it is and how far that is."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpsearch.errors import JobError

FILE = "lock"
_POLL_S = 1.0
_SAID_EVERY_S = 0.5
_open: set[int] = set()


def _forget() -> None:
    """Close the locks of the parent in a forked process: they end with the parent."""
    for handle in _open:
        with suppress(OSError):
            os.close(handle)
    _open.clear()


os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who works on a run folder.

    Attributes:
        pid: The process.
        host: Its machine.
        since: When it began, ISO 8601 in UTC.
        stage: What it is at.
        done: Steps done of that stage.
        total: Of how many.
    """

    pid: int
    host: str
    since: str
    stage: str = ""
    done: int = 0
    total: int = 0

    def describe(self) -> str:
        """Return who that is, in words."""
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """A run folder that is this process's."""

    __slots__ = ("_handle", "_said", "_since")

    def __init__(self, handle: int) -> None:
        """Write into the locked file whose it is."""
        self._handle, self._said = handle, 0.0
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self.say("", 0, 0, always=True)

    def say(self, stage: str, done: int, total: int, *, always: bool = False) -> None:
        """Say how far the run is; most calls do nothing."""
        now = time.monotonic()
        if not always and now - self._said < _SAID_EVERY_S:
            return
        self._said = now
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": self._since,
            "stage": stage,
            "done": done,
            "total": total,
        }
        with suppress(OSError):  # a full disk: who holds the lock is not worth a run
            text = json.dumps(holder).encode()
            os.pwrite(self._handle, text + b"\n", 0)
            os.ftruncate(self._handle, len(text) + 1)


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[Lock]:
    """Hold the run folder, made if there is none, for as long as the block runs.

    The lock is the system's (``flock``): one whose process died is nobody's.

    Args:
        folder: The run folder.
        wait: Wait for another process; else refuse.

    Raises:
        JobError: Another process works there, which is named, or nothing can be written there.
    """
    path = folder / FILE
    handle = _take(folder, path)
    while handle is None:
        if not wait:
            holder = find_holder(folder)
            who = "another process" if holder is None else holder.describe()
            raise JobError(
                f"{folder.name}: is being worked on by {who}; wait for it (--wait), or give another folder with -o"
            )
        time.sleep(_POLL_S)
        handle = _take(folder, path)
    _open.add(handle)
    try:
        yield Lock(handle)
    finally:
        _open.discard(handle)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


def find_holder(folder: Path) -> Holder | None:
    """Return who works on a run folder, None where nobody does."""
    try:
        handle = os.open(folder / FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        if _lock(handle):
            return None  # left by a process that died
        return _read(handle)
    finally:
        os.close(handle)


def _take(folder: Path, path: Path) -> int | None:
    """The locked file, None where another process holds it."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JobError(
                f"{folder.name}: the run folder must be writable, but: {error.strerror}"
            ) from None
        if not _lock(handle):
            os.close(handle)
            return None
        with suppress(OSError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)  # its last owner removed it in between


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _read(handle: int) -> Holder | None:
    try:
        said: dict[str, Any] = json.loads(os.pread(handle, 4096, 0))
        return Holder(**said)
    except (ValueError, TypeError):
        return None
