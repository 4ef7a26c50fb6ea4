"""Jobs made, changed, read and written: one error line for a key that is unknown or wrong."""

import tomllib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from mpsearch.artifacts import explain, read_toml, write_text
from mpsearch.errors import JobError
from mpsearch.runs.job import Job


def new_job(values: Mapping[str, Any]) -> Job:
    """Return the job that ``values`` make.

    Raises:
        JobError: A key is unknown or its value is wrong; the message names it.
    """
    try:
        return Job.model_validate(dict(values))
    except ValidationError as error:
        raise JobError(explain(Job, error)) from None


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


def read_job(path: Path) -> Job:
    """Read a job file.

    Raises:
        JobError: It cannot be read, or a key is unknown or wrong; the message names file and key.
    """
    try:
        return read_toml(path, Job, JobError)
    except JobError:
        if _has_sweep(path):
            raise JobError(
                f"{path.name}: holds a sweep, which is many jobs; run them with `mpsearch batch {path.name}`"
            ) from None
        raise


def _has_sweep(path: Path) -> bool:
    try:
        return "sweep" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False


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
