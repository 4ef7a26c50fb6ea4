"""``log.jsonl``: what happened in a run, one JSON object a line, oldest first."""

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "log.jsonl"


def write_event(folder: Path, event: str, **said: object) -> None:
    """Append an event to the log of a run; where nothing can be written, it is left out.

    Args:
        folder: The run folder.
        event: What happened: ``begin``, ``stage``, ``worker``, ``interrupted``, ``failed``, ``end``.
        said: More about it: JSON values.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "event": event, "pid": os.getpid(), **said}
    with suppress(OSError), (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, default=str) + "\n")


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run; a line that was cut off is left out."""
    events = []
    with suppress(OSError):
        for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                events.append(json.loads(line))
    return events
