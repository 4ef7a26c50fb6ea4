"""The run folder: whose job it is, its stages, and which of them are done."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mpsearch.artifacts import read_artifact, read_envelope, write_artifact
from mpsearch.data.batches import Batches
from mpsearch.errors import ArtifactError, JobError, OutputExistsError
from mpsearch.runs import lock, log
from mpsearch.runs.job import Job
from mpsearch.runs.job_file import read_job, write_job
from mpsearch.runs.log import write_event
from mpsearch.runs.peak_memory import forget_peak, peak_bytes
from mpsearch.runs.record import RunRecord, StageRecord

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Writer(Protocol[T_contra]):
    """Writes what a stage gives."""

    def __call__(self, value: T_contra, path: Path, /, *, inputs: Mapping[str, str]) -> str:
        """Write ``value`` with the digests of its inputs, and return the file's digest."""


@dataclass(frozen=True, slots=True)
class Stage(Generic[T]):
    """A step of a run that gives one file.

    Attributes:
        name: What ``run.json`` calls it; its file is ``NAME.json``.
        inputs: All that the result depends on: digests of what it reads, and its parameters as JSON
            (:func:`parameters`).
        compute: Computes the result.
        write: Writes it.
        read: Reads it back.
    """

    name: str
    inputs: Mapping[str, str]
    compute: Callable[[], T]
    write: Writer[T]
    read: Callable[[Path], T]


_BEGUN = {lock.FILE, log.FILE}
"""Files of a folder in which nothing was done yet."""

_LATER_LIMITS = ("energy_uj", "memory_bytes", "phase_us")
"""Limits that older runs lack: not named as inputs where they say nothing."""


def parameters(job: Job, *names: str) -> dict[str, str]:
    """Return the values of keys of ``job``, as inputs of a stage name them."""
    unset = {name for name in _LATER_LIMITS if not getattr(job.limits, name)}
    apart = {"limits": {"extensions", *unset}}
    values = job.model_dump(mode="json", include=set(names), exclude=apart)
    return {name: json.dumps(values[name], sort_keys=True) for name in names}


class RunFolder:
    """A folder ``RUN/`` that belongs to one job."""

    def __init__(self, path: Path, record: RunRecord, redo: Collection[str] = ()) -> None:
        """Begin with what ``record`` says; stages of ``redo`` are computed, whatever lies there."""
        self.path = path
        self.record = record
        self._redo = frozenset(redo)

    def file(self, name: str) -> Path:
        """Return the path of ``name`` in the folder."""
        return self.path / name

    def run(self, stage: Stage[T]) -> T:
        """Return what ``stage`` gives: read from its file if its inputs match, else computed."""
        known = self.known(stage)
        if known is not None:
            return known
        write_event(self.path, "stage", stage=stage.name, state="begin")
        forget_peak()
        started = time.perf_counter()
        value = stage.compute()
        self.write(stage, value, seconds=time.perf_counter() - started)
        return value

    def known(self, stage: Stage[T]) -> T | None:
        """Return what lies in the file of ``stage``, or None unless that was computed from its inputs.

        Files of earlier versions name fewer inputs: those that they name must match. Their ``settings``
        are keys of the job, in which two runs of one folder never differ.
        """
        path = self.file(f"{stage.name}.json")
        if stage.name in self._redo:
            return None
        with suppress(ArtifactError):  # missing, damaged, of another version: computed again
            envelope = read_envelope(path)
            named = {name: v for name, v in envelope["inputs"].items() if name != "settings"}
            if named and named.items() <= stage.inputs.items():
                value = stage.read(path)
                if self.digest(stage.name) != envelope["digest"]:
                    self.note(stage.name, digest=envelope["digest"], inputs=stage.inputs)
                return value
        return None

    def write(self, stage: Stage[T], value: T, *, seconds: float | None = None) -> None:
        """Write ``value`` as what ``stage`` gives; ``seconds`` None keeps the time that is recorded."""
        digest = stage.write(value, self.file(f"{stage.name}.json"), inputs=stage.inputs)
        self.note(stage.name, digest=digest, inputs=stage.inputs, seconds=seconds)

    def digest(self, name: str) -> str:
        """Return the digest of what stage ``name`` wrote; "" if it has not run."""
        record = self.record.stages.get(name)
        return record.digest if record is not None else ""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the time of a step that keeps its results elsewhere."""
        forget_peak()
        started = time.perf_counter()
        yield
        self.note(name, seconds=time.perf_counter() - started)

    def note(
        self,
        name: str,
        *,
        digest: str = "",
        inputs: Mapping[str, str] = {},
        seconds: float | None = None,
    ) -> None:
        """Record that stage ``name`` is done; ``seconds`` None keeps the figures that are recorded."""
        old = self.record.stages.get(name, StageRecord())
        record = StageRecord(
            digest=digest,
            inputs=dict(inputs),
            seconds=old.seconds if seconds is None else round(seconds, 3),
            peak_bytes=old.peak_bytes if seconds is None else peak_bytes(),
        )
        self.update(stages={**self.record.stages, name: record})
        if seconds is not None:
            said = {"seconds": record.seconds, "peak_bytes": record.peak_bytes}
            write_event(self.path, "stage", stage=name, state="end", **said)

    def update(self, **changes: object) -> None:
        """Change fields of the record and write ``run.json``."""
        self.record = self.record.model_copy(update=changes)
        write_artifact(self.file("run.json"), "run", self.record)


def begin_run(
    path: Path, job: Job, batches: Batches | None, redo: Collection[str] = ()
) -> RunFolder:
    """Return the run folder of ``job`` at ``path``: made if there is none, resumed if it is of this job.

    With more samples than it was measured on, the run is one on all of them from here on, calibrated as
    before, and without results until its end.

    Raises:
        OutputExistsError: There is something at ``path`` that is no run.
        JobError: It is the run of another job or of other data (see :func:`check_run`).
    """
    record = check_run(path, job, batches)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "plans").mkdir(exist_ok=True)
        write_job(job, path / "job.toml")
    except OSError as error:
        raise JobError(f"{path.name}: the run folder cannot be made: {error.strerror}") from None
    write_event(path, "begin")
    folder, samples = RunFolder(path, record, redo), len(batches) if batches is not None else 0
    if record.samples != samples:
        folder.update(samples=samples, calibrated=record.calibrated or samples, results=None)
    return folder


def check_run(path: Path, job: Job, batches: Batches | None) -> RunRecord:
    """Return the record of the run of ``job`` at ``path``, an empty one where there is none; writes nothing.

    Args:
        path: The run folder, or where it is to be.
        job: The job, with digests.
        batches: Its calibration data: those of the run, or more that begin with them.

    Raises:
        OutputExistsError: There is something at ``path`` that is no run.
        JobError: It is the run of another job or of other data; the message says in what they differ.
    """
    if not path.exists() or (path.is_dir() and {p.name for p in path.iterdir()} <= _BEGUN):
        return RunRecord()
    if not (path / "job.toml").is_file():
        raise OutputExistsError(
            f"{path.name}: exists and is no run folder; give another one with -o, or remove it"
        )
    old, record = read_job(path / "job.toml"), RunRecord()
    other = difference(old, job)
    if other:
        raise JobError(
            f"{path.name}: is the run of another job ({other}); give another folder with -o"
        )
    if (path / "run.json").is_file():
        with suppress(ArtifactError):  # a damaged record is rebuilt as stages run
            record = read_artifact(path / "run.json", "run", RunRecord)
    digest = old.digests.get("data", "")
    if digest and digest != job.digests.get("data"):
        _check_more(path.name, record.samples, digest, batches)
    return record


def _check_more(name: str, samples: int, digest: str, batches: Batches | None) -> None:
    """Check that ``batches`` begin with the ``samples`` of ``digest`` that the run ``name`` measured."""
    count = len(batches) if batches is not None else 0
    if count < samples:
        raise JobError(
            f"{name}: was measured on {samples} samples and cannot go on with {count}; give as many or "
            "more, or another folder with -o"
        )
    if batches is None or not samples or batches.take(samples).digest != digest:
        raise JobError(
            f"{name}: is the run of other data; to go on they must begin with the samples that it was "
            "measured on; give another folder with -o"
        )


def difference(old: Job, new: Job) -> str:
    """Return the first key in which two jobs differ, with both values; "" if they are the same.

    How much memory they may take decides no result, and is left out; so are their calibration data, of
    which one may have more than the other (:func:`check_run`).
    """
    left, right = old.model_dump(mode="json"), new.model_dump(mode="json")
    for job in (left, right):
        job["digests"].pop("data", None)
    for key, value in left.items():
        if key in ("max_memory", "data", "samples"):
            continue
        other = right[key]
        if isinstance(value, dict) and value != other:
            inner = next(k for k in {**value, **other} if value.get(k) != other.get(k))
            return (
                f"{key}.{inner}: {_short(value.get(inner))} there, {_short(other.get(inner))} here"
            )
        if value != other:
            return f"{key}: {_short(value)} there, {_short(other)} here"
    return ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"
