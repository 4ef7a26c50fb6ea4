"""Work that needs the model: measuring and exporting, in processes of their own, so that pages stay quick.

What a process is told is chosen here: files from the command line that started the dashboard, plans of the
run, targets that are registered. Nothing of it is a path or a word from the browser.
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from threading import Lock

from mpsearch.errors import JobError
from mpsearch.shown import visible

_EXPORT_LIMIT_S = 600


@dataclass(slots=True)
class Measuring:
    """What the dashboard was given to measure and export with.

    Attributes:
        model: The model; None: nothing can be measured or exported here.
        data: Calibration data; None: nothing can be measured here.
        trust_code: Whether functions that a job names may be run.
    """

    model: Path | None = None
    data: Path | None = None
    trust_code: bool = False
    _running: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def can_measure(self) -> bool:
        """Whether plans that are asked for are measured at once."""
        return self.model is not None and self.data is not None

    def start(self, run: Path) -> bool:
        """Work off the queue of ``run``, unless that is going on; return whether it is."""
        if self.model is None or self.data is None:
            return False
        with self._lock:
            before = self._running.get(run)
            if before is None or before.poll() is not None:
                words = ["measure", str(run), "--model", str(self.model), "--data", str(self.data)]
                words += ["--trust-code"] if self.trust_code else []
                self._running[run] = subprocess.Popen(
                    [sys.executable, "-m", "mpsearch", *words], stdin=subprocess.DEVNULL
                )
        return True

    def is_running(self, run: Path) -> bool:
        """Return whether the queue of ``run`` is being worked off."""
        process = self._running.get(run)
        return process is not None and process.poll() is None

    def stop(self) -> None:
        """End what still runs."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()

    def export(self, plan: Path, target: str) -> bytes:
        """Return a plan's export for ``target`` as a zip file.

        Raises:
            JobError: No model was given, or the export failed; the message is the exporter's own.
        """
        if self.model is None:
            raise JobError("exports need the model: start the dashboard with --model")
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "export"
            words = ["export", str(plan), "--model", str(self.model), "--target", target]
            done = subprocess.run(
                [sys.executable, "-m", "mpsearch", *words, "-o", str(out)],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_EXPORT_LIMIT_S,
                check=False,
            )
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().splitlines() or ["it failed"]
                raise JobError(visible(said[-1].removeprefix("error: "))[:500])
            return zipped(out)


def zipped(folder: Path) -> bytes:
    """Return the files of ``folder`` as a zip file."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()
