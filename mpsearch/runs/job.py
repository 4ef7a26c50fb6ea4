"""The job file: everything that decides a search's result, in one TOML file.

In a file that a person writes, ``model``, ``data``, ``eval``, ``device`` and ``space`` may be paths
relative to that file. The copy in a run folder holds file names and digests only.
"""

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import AfterValidator, Field, ValidationError

from mpsearch.artifacts import Content, read_toml, write_text
from mpsearch.errors import JobError
from mpsearch.problem.tables import FULL
from mpsearch.registry import DataFolder, data_file
from mpsearch.space.space import RecoveryName

_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
Names = tuple[str, ...]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _size(text: str) -> str:
    if text:
        parse_bytes(text)
    return text


def _budget(value: int | str) -> int | str:
    if value != FULL and (isinstance(value, str) or value < 0):
        raise ValueError(f'must be a number of at least 0, or "{FULL}"')
    return value


class Limits(Content):
    """What the chosen plan must keep to; None does not limit.

    Attributes:
        latency_us: Latency of one batch on the device.
        weight_bytes: Stored bytes of all decided weights.
        effective_bits: Stored bits over decided weights.
        loss: Increase over the fp32 model.
    """

    latency_us: float | None = None
    weight_bytes: float | None = None
    effective_bits: float | None = None
    loss: float | None = None

    def given(self) -> dict[str, float]:
        """Return name to value of the limits that are set."""
        values = {name: getattr(self, name) for name in Limits.model_fields if name != "extensions"}
        return {name: value for name, value in values.items() if value is not None}


class OwnSettings(Content):
    """What is told to a plug-in alone.

    Attributes:
        settings: Its own settings by name; ``mpsearch.registry.find(kind, name).settings`` says which there are.
    """

    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)


class Job(Content):
    """One search.

    Attributes:
        model: The ONNX file.
        data: Calibration data: ``.npz`` or a folder of them; "" leaves shapes, cost and size.
        eval: Held-out data, on which plans are scored; "" scores none.
        device: Name or file of the device that latencies are modelled for.
        space: Name or file of the search space; "" takes the device's own.
        schemes: Schemes to search; () takes all of the space.
        keep: Patterns of layer names that stay in the base format.
        base: Format of what is not lowered; "" takes the space's own.
        recovery: How sparse schemes recover what pruning lost: ``none`` or ``obs``; None takes the space's own.
        target: Runtime whose rules are added; "" adds none.
        shapes: Input name to sizes, 0 for the batch; needed for dynamic axes where there is no data.
        loss: What the loss is; "" is read from the graph.
        metric: How sensitivity is scored.
        method: Search method; ``exact`` predicts, any other measures whole plans.
        batch: Samples that one latency is for.
        batch_size: Rows that the simulator runs together.
        samples: Calibration samples that are used at most; 0 uses all.
        budget: Whole-plan measurements that the metric and the search may spend; 0 leaves it to them.
            ``full`` gives the metric two for each entry, and leaves the search its own.
        measure: Points of a predicted front that are measured.
        refine: Measurements that are spent on better points near the uniform plan to beat.
        self_test: Random plans that are measured to say how far the table can be trusted; 0 measures none.
        tolerance: Expected share of pairs of entries in the wrong order at which the metric has seen
            enough samples; 0 takes all.
        time_budget_s: Seconds after which the search of the front stops with what it has; 0: no end.
        confidence: Limits and choices are judged by one-sided upper bounds at this level; 0: by means.
        quality: Score of which a chosen plan may lose ``max_drop`` on held-out data: ``accuracy``,
            ``nll``, ``loss`` or ``module:function``; "" limits none.
        max_drop: Greatest mean drop of ``quality`` against the fp32 model, in its own unit.
        faster: Share of latency that the plan ``fast`` must save against the least lossy uniform plan.
        smaller: Share of size that the plan ``small`` must save.
        seed: Seed of everything that draws.
        threads: Threads of the simulator; 0 takes what the machine has.
        max_memory: Anonymous memory that the process may hold, such as ``2GB``; "" takes what is free.
        limits: What the chosen plan must keep to.
        search: Settings of the search method's own.
        sensitivity: Settings of the metric's own.
        digests: What the files held, by ``model``, ``weights``, ``data``, ``eval``, ``device``, ``space``.
    """

    model: str
    data: str = ""
    eval: str = ""
    device: str
    space: str = ""
    schemes: Names = ()
    keep: Names = ()
    base: str = ""
    recovery: RecoveryName | None = None
    target: str = ""
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    loss: str = ""
    metric: str = "calibrated"
    method: str = "exact"
    batch: Positive = 1
    batch_size: Positive = 32
    samples: Annotated[int, Field(ge=0)] = 128
    budget: Annotated[int | str, AfterValidator(_budget)] = 0
    measure: Annotated[int, Field(ge=0)] = 12
    refine: Annotated[int, Field(ge=0)] = 60
    self_test: Annotated[int, Field(ge=0)] = 0
    tolerance: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    time_budget_s: Annotated[float, Field(ge=0)] = 0.0
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    quality: str = ""
    max_drop: Annotated[float, Field(ge=0)] | None = None
    faster: Share = 0.16
    smaller: Share = 0.38
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    max_memory: Annotated[str, AfterValidator(_size)] = ""
    limits: Limits = Limits()
    search: OwnSettings = OwnSettings()
    sensitivity: OwnSettings = OwnSettings()
    digests: dict[str, str] = Field(default_factory=dict)

    @property
    def measurements(self) -> int | None:
        """Whole-plan measurements that a search may spend; None leaves it to the method."""
        return self.budget if isinstance(self.budget, int) and self.budget else None

    @property
    def metric_settings(self) -> dict[str, bool | int | float | str]:
        """Settings of the metric's own, ``tolerance`` among them where it is given."""
        told = {"tolerance": self.tolerance} if self.tolerance else {}
        return {**told, **self.sensitivity.settings}


def new_job(values: Mapping[str, Any]) -> Job:
    """Return the job that ``values`` make.

    Raises:
        JobError: A key is unknown or its value is wrong; the message names it.
    """
    try:
        return Job.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise JobError(
            f"{where}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
        ) from None


def check_trust(job: Job, name: str, *, told: Container[str] = ()) -> None:
    """Refuse a job from a file that names code to be run.

    Args:
        job: The job.
        name: Of its file.
        told: Keys whose values the user gave, not the file.

    Raises:
        JobError: ``quality`` or ``loss`` names a function; the message says how to trust it.
    """
    for key, value in (("quality", job.quality), ("loss", job.loss)):
        function = value.removeprefix("quality:")
        if ":" in function and (key == "quality" or function != value) and key not in told:
            raise JobError(
                f"{name}: {key} names code to be run, {function!r}; read that code, then give --trust-code"
            )


def change_job(job: Job, values: Mapping[str, Any]) -> Job:
    """Return ``job`` with ``values`` put over it; limits and settings are put over one by one.

    Raises:
        JobError: A key is unknown or its value is wrong; the message names it.
    """
    old = job.model_dump()
    limits = {**old["limits"], **values.get("limits", {})}
    own = {
        key: {"settings": {**old[key]["settings"], **values.get(key, {}).get("settings", {})}}
        for key in ("search", "sensitivity")
    }
    return new_job({**old, **values, "limits": limits, **own})


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the files of a job lie on this machine; never written anywhere.

    Attributes:
        model: The ONNX file.
        data: Calibration data.
        evaluation: Held-out data.
        device: Name or file of the device.
        space: Name or file of the search space; "" takes the device's own.
    """

    model: Path
    data: Path | None
    evaluation: Path | None
    device: str
    space: str


def read_job(path: Path) -> Job:
    """Read a job file.

    Raises:
        JobError: It cannot be read, or a key is unknown or wrong; the message names file and key.
    """
    return read_toml(path, Job, JobError)


def locate(
    job: Job,
    folder: Path,
    *,
    model: Path | None = None,
    data: Path | None = None,
    evaluation: Path | None = None,
    own_device: Path | None = None,
    own_space: Path | None = None,
) -> Sources:
    """Find the files of ``job``: where the caller says, else relative to ``folder``.

    Args:
        job: The job.
        folder: What its paths are relative to.
        model: Where the model lies; None is where the job says.
        data: The same of the calibration data.
        evaluation: The same of the held-out data.
        own_device: What a device file is relative to; None is ``folder``.
        own_space: The same of a space file.

    Raises:
        JobError: A file does not exist; the message says which key or option gives it.
    """

    def find(key: str, given: Path | None, name: str) -> Path | None:
        path = given if given is not None else (folder / name if name else None)
        if path is not None and not path.exists():
            raise JobError(
                f"{key} must exist, but {path.name!r} was not found; give it with --{key} PATH"
            )
        return path

    found = find("model", model, job.model)
    if found is None:
        raise JobError("model must be given: the path of an ONNX file")
    return Sources(
        model=found,
        data=find("data", data, job.data),
        evaluation=find("eval", evaluation, job.eval),
        device=_name_or_file("cost_models", job.device, own_device or folder, "device"),
        space=_name_or_file("search_spaces", job.space, own_space or folder, "space")
        if job.space
        else "",
    )


def _name_or_file(kind: DataFolder, text: str, folder: Path, noun: str) -> str:
    """``text`` where it names a file that ships, else the path of the user's own file."""
    own = folder / text
    if text.endswith(".toml") and own.is_file():
        return str(own)
    data_file(kind, text, noun)  # raises where it is neither
    return text


def difference(old: Job, new: Job) -> str:
    """Return the first key in which two jobs differ, with both values; "" if they are the same.

    How much memory they may take decides no result, and is left out; so are their calibration data, of
    which one may have more than the other (:func:`mpsearch.runs.run_folder.check_run`).
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


def write_job(job: Job, path: Path) -> None:
    """Write ``job`` as TOML; empty keys are left out."""
    write_text(path, job_text(job))


def job_text(job: Job) -> str:
    """Return ``job`` as TOML; empty keys are left out."""
    said: dict[str, Any] = {}
    for key, value in job.model_dump(mode="json").items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v not in (None, {})}
        if value not in ("", [], None, {}):
            said[key] = value
    return tomli_w.dumps(said)


def parse_bytes(text: str) -> int:
    """Return the bytes that ``text`` says.

    Raises:
        JobError: It is no number with a unit of bytes behind it.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?\s*", text.upper())
    unit = (found[2] or "").removeprefix("B") if found else ""
    if found is None or unit not in _UNITS:
        raise JobError(f"a size of memory must read like 2GB, 512MB or 1.5GiB; got {text!r}")
    return int(float(found[1]) * _UNITS[unit])
