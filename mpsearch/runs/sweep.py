"""Job files that stand for many jobs: the lists of their table ``[sweep]``, each value with each other."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mpsearch.artifacts import explain
from mpsearch.errors import JobError
from mpsearch.runs.job import Job

SWEEP = "sweep"
_TABLES = ("limits", "search", "sensitivity")


@dataclass(frozen=True, slots=True)
class SweptJob:
    """One job of a file.

    Attributes:
        name: What tells it from the others, as a folder's name; "" where the file is one job.
        job: The job.
        axes: Key of the sweep to the value that this job has.
    """

    name: str
    job: Job
    axes: Mapping[str, Any]


def read_jobs(path: Path) -> tuple[SweptJob, ...]:
    """Return the jobs of a file: one, or all combinations of the lists of its ``[sweep]``.

    A key of the sweep is a key of the job, such as ``device`` or ``limits.latency_us`` in quotes. A value may be a table: then
    all its keys go together, as a model with its data do: ``model = [{model = "a.onnx", data = "a.npz"}]``.

    Raises:
        JobError: The file cannot be read, or a key is unknown or wrong; the message names file and key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path.name}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path.name}: must be a TOML file: {error}") from None
    sweep = data.pop(SWEEP, {})
    axes = {key: _values(path.name, key, values) for key, values in _flat(path.name, sweep)}
    found: list[SweptJob] = []
    for chosen in product(*axes.values()):
        values = data
        for change in chosen:
            values = _put(values, change)
        own = {key: change[key] for key, change in zip(axes, chosen, strict=True)}
        name = "_".join(_word(value) for value in own.values())
        found.append(SweptJob(name, _job(path.name, values, own), own))
    return tuple(_named_apart(found))


def _flat(file: str, sweep: Any) -> list[tuple[str, Any]]:
    """Keys of a sweep, those of inner tables with a dot."""
    if not isinstance(sweep, dict):
        raise JobError(f"{file}: sweep must be a table of lists, got {sweep!r}")
    found: list[tuple[str, Any]] = []
    for key, values in sweep.items():
        if key in _TABLES and isinstance(values, dict):
            inner = _flat(file, values)
            found += [(f"{key}.{name}", more) for name, more in inner]
        else:
            found.append((key, values))
    return found


def _values(file: str, key: str, values: Any) -> list[dict[str, Any]]:
    """The values of a key as changes of a job: key to value."""
    table = key.partition(".")[0]
    if table not in Job.model_fields or table in ("extensions", "digests"):
        choices = ", ".join(k for k in Job.model_fields if k not in ("extensions", "digests"))
        raise JobError(
            f"{file}: sweep.{key}: no such key; a sweep is over keys of a job: {choices}"
        )
    if not isinstance(values, list) or not values:
        raise JobError(f"{file}: sweep.{key}: must be a list of values, got {values!r}")
    changes = []
    for value in values:
        together = isinstance(value, dict) and key in value
        changes.append(dict(value) if together else {key: value})
    return changes


def _put(values: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of a job with ``change`` put over them."""
    found = dict(values)
    for key, value in change.items():
        first, *rest = key.split(".")
        if not rest:
            found[first] = value
            continue
        inner = dict(found.get(first, {}))
        if first in ("search", "sensitivity") and rest[0] == "settings":
            inner["settings"] = {**inner.get("settings", {}), ".".join(rest[1:]): value}
        else:
            inner[".".join(rest)] = value
        found[first] = inner
    return found


def _job(file: str, values: Mapping[str, Any], own: Mapping[str, Any]) -> Job:
    try:
        return Job.model_validate(dict(values))
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        swept = f"{SWEEP}." if where and str(where[0]) in own else ""
        raise JobError(f"{file}: {swept}{explain(Job, error)}") from None


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, list | tuple):
        return "-".join(_word(part) for part in value)
    text = str(value)
    for ending in (".onnx", ".toml"):
        text = text.removesuffix(ending)
    return re.sub(r"[^A-Za-z0-9.@+-]+", "-", text.rpartition("/")[2]).strip("-.") or "none"


def _named_apart(jobs: Sequence[SweptJob]) -> list[SweptJob]:
    """``jobs``, a number behind the names that several would have."""
    seen: dict[str, int] = {}
    found = []
    for one in jobs:
        seen[one.name] = seen.get(one.name, 0) + 1
        number = seen[one.name]
        name = one.name if number == 1 else f"{one.name}_{number}"
        found.append(SweptJob(name, one.job, one.axes))
    return found
