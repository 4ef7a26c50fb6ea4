"""``run.json``: the stages of a run, what computed them, and what it found."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from pydantic import Field

from mpsearch.artifacts import Content, read_artifact
from mpsearch.errors import JobError
from mpsearch.figures.plan_row import PlanRow
from mpsearch.stats.estimates import Estimate

_PACKAGES = ("mpsearch", "numpy", "onnx", "onnxruntime", "scipy", "torch")


class StageRecord(Content):
    """One stage of a run.

    Attributes:
        digest: Digest of the file that it wrote; "" if it wrote none with a digest.
        inputs: Digests of what it was computed from.
        seconds: Wall time that it took when it was computed.
        peak_bytes: The most memory that the process held meanwhile; 0 in runs of older versions.
    """

    digest: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0


class QualityTest(Content):
    """A plan whose quality was tested on held-out data.

    Attributes:
        latency_us: Latency of the plan.
        drop: Mean drop of the quality against the fp32 model.
        stderr: Its standard error.
        lower: One-sided lower confidence bound of the drop.
        upper: One-sided upper confidence bound.
        verdict: ``kept``, ``broken`` or ``undecided``.
        samples: Held-out samples.
        samples_needed: About how many would decide; None where no number would.
    """

    latency_us: float
    drop: float
    stderr: float
    lower: float
    upper: float
    verdict: str
    samples: int
    samples_needed: int | None


class Results(Content):
    """What a finished run found, beside its artifacts.

    Attributes:
        space: Name of the search space.
        samples: Calibration samples; 0 where only costs were worked out.
        held_out: Held-out samples; 0 without any.
        unit: Unit of the loss.
        rows: Plans to compare.
        chosen: [G] assignment of the main plan.
        rules: Name of each chosen plan's file to the rule that it was chosen by.
        correlation: Spearman of predicted and measured losses; None where it says nothing.
        correlated: How many points that is over.
        notes: What a reader must know.
        labels: Name of each chosen plan's file to what tables call it.
        tests: Plans whose quality was tested, in order.
        by_output: Part of the outputs to what the main plan loses there; empty where there is but one.
        by_slice: Slice of the data to what the main plan loses there; empty without slices.
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
    labels: dict[str, str] = Field(default_factory=dict)
    tests: tuple[QualityTest, ...] = ()
    by_output: dict[str, Estimate] = Field(default_factory=dict)
    by_slice: dict[str, Estimate] = Field(default_factory=dict)


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
        seconds: Wall time of the last command that reached the end.
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
    seconds: float = 0.0
    results: Results | None = None


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
