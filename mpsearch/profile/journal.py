"""What an interrupted profile had measured: one line a measurement, beside the file that it becomes."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpsearch.artifacts import digest_json
from mpsearch.errors import ArtifactError
from mpsearch.graph.model import ModelGraph
from mpsearch.profile.timed_runtime import TimedRuntime


class Journal:
    """Name → measurement, on disk as soon as it is made.

    Lines of another subject (another model, runtime or machine) are not read.
    """

    def __init__(self, path: Path, subject: Mapping[str, str]) -> None:
        self._path, self._subject = path, dict(subject)
        self._rounds: dict[str, list[tuple[float, float]]] = {}
        self._found = self._read()

    def get(self, name: str) -> dict[str, Any] | None:
        """Return what was measured under ``name``, or None."""
        return self._found.get(name)

    def add(self, name: str, measured: Mapping[str, Any]) -> None:
        """Keep a measurement."""
        self._found[name] = dict(measured)
        self._write({"name": name, "measured": dict(measured)})

    def rounds_of(self, name: str) -> Sequence[tuple[float, float]]:
        """Return the rounds of ``name`` that were run before this journal was opened."""
        return self._rounds.get(name, [])

    def add_round(self, took: Mapping[str, tuple[float, float]]) -> None:
        """Keep one round."""
        self._write({"round": {name: [round(x, 3) for x in both] for name, both in took.items()}})

    def close(self) -> None:
        """Remove it: the result is written."""
        self._path.unlink(missing_ok=True)

    def _write(self, entry: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"subject": self._subject, **entry}) + "\n")

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{self._path.name}: cannot be read: {error}") from None
        found = {}
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the line that was being written when it was interrupted
            if entry.get("subject") != self._subject:
                continue
            if "round" in entry:
                for name, (us, reference_us) in entry["round"].items():
                    self._rounds.setdefault(name, []).append((us, reference_us))
            else:
                found[entry["name"]] = entry["measured"]
        return found


def open_journal(
    out: Path, graph: ModelGraph, runtime: TimedRuntime, schemes: Sequence[str]
) -> Journal:
    """Return the journal beside the device file ``out`` that is to be.

    Args:
        out: The device file.
        graph: The model that is measured.
        runtime: Where.
        schemes: Names of those that are measured.
    """
    sizes = [(value.name, value.shape) for value in graph.inputs]
    subject = {
        "structure": graph.structure_digest,
        "sizes": str(sizes),
        "runtime": runtime.version,
        "machine": digest_json([platform.node(), platform.machine()]),
        "schemes": ",".join(schemes),
    }
    return Journal(out.with_name(f".{out.name}.journal"), subject)
