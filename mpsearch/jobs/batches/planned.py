"""Many jobs: which runs they are, which of those are finished, and which cannot start. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsearch.errors import MpsearchError
from mpsearch.runs.asked import is_finished
from mpsearch.runs.job import Job
from mpsearch.runs.job_file import check_trust
from mpsearch.runs.sources import Sources, locate
from mpsearch.runs.sweep import SweptJob, read_jobs


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that a batch is to make.

    Attributes:
        name: The run's folder within the batch's.
        job: Its job.
        sources: Where the job's files lie.
        folder: The run folder.
        axes: Key of the sweep to the value that this run has.
        finished: Whether it lies there already, of this job on these files.
    """

    name: str
    job: Job
    sources: Sources
    folder: Path
    axes: Mapping[str, Any]
    finished: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run of a batch.

    Attributes:
        name: The run.
        state: ``finished``, ``unchanged``, ``failed`` or ``interrupted``.
        said: What it failed of.
        seconds: Wall time.
    """

    name: str
    state: str
    said: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """The runs of some job files.

    Attributes:
        runs: Runs that can start.
        failed: Those that cannot, with why.
    """

    runs: tuple[Planned, ...]
    failed: tuple[Outcome, ...]


def plan_batch(files: Sequence[Path], out: Path, *, trust_code: bool = False) -> Batch:
    """Return the runs of job files, each in a folder of its own within ``out``.

    What is wrong with one hinders no other.

    Args:
        files: Job files, with or without a sweep.
        out: Folder of the run folders.
        trust_code: Whether functions that job files name may be run.
    """
    runs: list[Planned] = []
    failed: list[Outcome] = []
    seen: set[str] = set()
    for file in files:
        try:
            swept = read_jobs(file)
        except MpsearchError as error:
            failed.append(Outcome(file.stem, "failed", str(error)))
            continue
        for one in swept:
            name = _name(file, one, seen)
            seen.add(name)
            try:
                runs.append(_plan(file, one, name, out / name, trust_code))
            except MpsearchError as error:
                failed.append(Outcome(name, "failed", str(error)))
    return Batch(tuple(runs), tuple(failed))


def _plan(file: Path, one: SweptJob, name: str, folder: Path, trust_code: bool) -> Planned:
    if not trust_code:
        check_trust(one.job, file.name)
    sources = locate(one.job, file.parent)
    finished = is_finished(folder, one.job, sources)
    return Planned(name, one.job, sources, folder, one.axes, finished)


def _name(file: Path, one: SweptJob, seen: set[str]) -> str:
    """A name of its own: the file's, with the sweep's values behind it."""
    name = f"{file.stem}_{one.name}" if one.name else file.stem
    number, found = 1, name
    while found in seen:
        number += 1
        found = f"{name}_{number}"
    return found
