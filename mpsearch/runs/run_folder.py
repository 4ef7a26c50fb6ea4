"""The run folder: whose job it is, which stages are done, and the record of the run."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Protocol, TypeVar

from pydantic import Field

from mpsearch.artifacts import Content, read_artifact, read_envelope, write_artifact
from mpsearch.data.batches import Batches
from mpsearch.errors import ArtifactError, JobError, OutputExistsError
from mpsearch.figures.plan_row import PlanRow
from mpsearch.runs.job import Job, difference, read_job, write_job

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_PACKAGES = ("mpsearch", "numpy", "onnx", "onnxruntime", "scipy", "torch")


class StageRecord(Content):
    """One stage of a run.

    Attributes:
        digest: Digest of the file that it wrote; "" if it wrote none with a digest.
        inputs: Digests of what it was computed from.
        seconds: Wall time that it took when it was computed.
    """

    digest: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0


class Results(Content):
    """What a finished run found, beside its artifacts.

    Attributes:
        space: Name of the search space.
        samples: Calibration samples.
        held_out: Held-out samples; 0 without any.
        unit: Unit of the loss.
        rows: Plans to compare.
        chosen: [G] assignment of the main plan.
        rules: Name of each chosen plan's file to the rule that it was chosen by.
        correlation: Spearman of predicted and measured losses; None where it says nothing.
        correlated: How many points that is over.
        notes: What a reader must know.
    """

    space: str
    samples: int
    held_out: int
    unit: str
    rows: tuple[PlanRow, ...]
    chosen: tuple[int, ...]
    rules: dict[str, str]
    correlation: float | None
    correlated: int
    notes: tuple[str, ...]


class RunRecord(Content):
    """What ``run.json`` says.

    Attributes:
        stages: Name to record, in the order they ran.
        versions: Package to version, Python included.
        fingerprint: What computed the losses.
        batch_size: Rows that the simulator ran together.
        threads: Threads it ran on.
        seed: Seed of the run.
        samples: Calibration samples that losses are measured on; 0 without data.
        calibrated: The first of them, which ranges and recovered weights come from.
        evaluations: Whole assignments whose losses are kept.
        interrupted: Whether the run was stopped before its end.
        results: What it found; None before its end.
    """

    stages: dict[str, StageRecord] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    fingerprint: dict[str, str] = Field(default_factory=dict)
    batch_size: int = 0
    threads: int = 0
    seed: int = 0
    samples: int = 0
    calibrated: int = 0
    evaluations: int = 0
    interrupted: bool = False
    results: Results | None = None


class Writer(Protocol[T_contra]):
    """Writes what a stage gives."""

    def __call__(self, value: T_contra, path: Path, /, *, inputs: Mapping[str, str]) -> str:
        """Write ``value`` with the digests of its inputs, and return the file's digest."""


class RunFolder:
    """A folder ``RUN/`` that belongs to one job."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record

    def file(self, name: str) -> Path:
        """Return the path of ``name`` in the folder."""
        return self.path / name

    def stage(
        self,
        name: str,
        file: str,
        inputs: Mapping[str, str],
        *,
        compute: Callable[[], T],
        write: Writer[T],
        read: Callable[[Path], T] | None = None,
    ) -> T:
        """Return what stage ``name`` gives: read from ``file`` if its inputs match, else computed.

        Args:
            name: The stage, as ``run.json`` calls it.
            file: Its file in the folder.
            inputs: Digests of all that the result depends on.
            compute: Computes the result.
            write: Writes it.
            read: Reads it back; None always computes.
        """
        path = self.file(file)
        if read is not None:
            with suppress(ArtifactError):  # missing, damaged, of another version: computed again
                envelope = read_envelope(path)
                if envelope["inputs"] == dict(inputs):
                    value = read(path)
                    if self.digest(name) != envelope["digest"]:
                        self.note(name, digest=envelope["digest"], inputs=inputs, seconds=0.0)
                    return value
        started = time.perf_counter()
        value = compute()
        digest = write(value, path, inputs=inputs)
        self.note(name, digest=digest, inputs=inputs, seconds=time.perf_counter() - started)
        return value

    def digest(self, name: str) -> str:
        """Return the digest of what stage ``name`` wrote; "" if it has not run."""
        record = self.record.stages.get(name)
        return record.digest if record is not None else ""

    def note(
        self, name: str, *, digest: str = "", inputs: Mapping[str, str] = {}, seconds: float
    ) -> None:
        """Record that stage ``name`` is done."""
        record = StageRecord(digest=digest, inputs=dict(inputs), seconds=round(seconds, 3))
        self.update(stages={**self.record.stages, name: record})

    def update(self, **changes: object) -> None:
        """Change fields of the record and write ``run.json``."""
        self.record = self.record.model_copy(update=changes)
        write_artifact(self.file("run.json"), "run", self.record)


def open_run(path: Path, job: Job, batches: Batches | None) -> RunFolder:
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
    folder, samples = RunFolder(path, record), len(batches) if batches is not None else 0
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
    if not path.exists():
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


def installed_versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    found = {"python": python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_record(path: Path) -> RunRecord:
    """Return the record of the run in the folder ``path``.

    Raises:
        JobError: There is no such folder, or it is no run.
        ArtifactError: Its ``run.json`` is damaged.
    """
    if not (path / "run.json").is_file():
        raise JobError(f"{path.name}: must be a run folder, made by `mpsearch search`")
    return read_artifact(path / "run.json", "run", RunRecord)
