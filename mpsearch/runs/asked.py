"""``asked.json``: what a batch last ran in a folder, so that it can be seen without reading a model that nothing changed."""

import hashlib
from pathlib import Path

from mpsearch._version import __version__
from mpsearch.artifacts import Content, digest_json, read_artifact, write_artifact
from mpsearch.cost.device import split_point
from mpsearch.errors import ArtifactError, MpsearchError
from mpsearch.registry import data_file
from mpsearch.runs.job import Job
from mpsearch.runs.record import read_record
from mpsearch.runs.sources import Sources

FILE = "asked.json"
_BLOCK = 1 << 20


class _File(Content):
    name: str
    size: int
    modified_ns: int
    sha256: str


class _Asked(Content):
    version: str
    job: str
    files: dict[str, _File]


def is_finished(folder: Path, job: Job, sources: Sources) -> bool:
    """Return whether the run in ``folder`` is finished, and of this job on these files.

    A file of the same size and time of change is taken for the same; else what it holds decides.
    """
    try:
        asked = read_artifact(folder / FILE, "asked", _Asked)
        record = read_record(folder)
    except MpsearchError:
        return False
    if record.results is None or record.interrupted:
        return False
    if (asked.version, asked.job) != (__version__, _digest(job)):
        return False
    paths = _paths(sources, job)
    return paths.keys() == asked.files.keys() and all(
        _same(asked.files[key], path) for key, path in paths.items()
    )


def was_asked(folder: Path) -> bool:
    """Return whether a batch made the run in ``folder``."""
    try:
        read_artifact(folder / FILE, "asked", _Asked)
    except ArtifactError:
        return False
    return True


def note_asked(folder: Path, job: Job, sources: Sources) -> None:
    """Write what was asked of the run in ``folder``."""
    files = {key: _describe(path) for key, path in _paths(sources, job).items()}
    write_artifact(
        folder / FILE, "asked", _Asked(version=__version__, job=_digest(job), files=files)
    )


def _digest(job: Job) -> str:
    return digest_json(job.model_dump(mode="json"))


def _paths(sources: Sources, job: Job) -> dict[str, Path]:
    """Key to file of all that a job reads; a folder of data stands with each of its files."""
    found = {"model": sources.model}
    for key, path in (("data", sources.data), ("eval", sources.evaluation)):
        if path is None:
            continue
        if path.is_dir():
            found |= {f"{key}/{part.name}": part for part in sorted(path.glob("*.npz"))}
        else:
            found[key] = path
    found["device"] = data_file("cost_models", split_point(sources.device)[0], "device")
    if sources.space:
        found["space"] = data_file("search_spaces", sources.space, "space")
    side = sources.model.parent
    for extra in sorted(side.glob(f"{sources.model.name}*data*")):  # weights beside the model
        found[f"weights/{extra.name}"] = extra
    if job.target:
        found["target"] = data_file("search_spaces/targets", job.target, "target")
    return found


def _same(known: _File, path: Path) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    if stat.st_size != known.size:
        return False
    return stat.st_mtime_ns == known.modified_ns or _sha256(path) == known.sha256


def _describe(path: Path) -> _File:
    stat = path.stat()
    return _File(
        name=path.name, size=stat.st_size, modified_ns=stat.st_mtime_ns, sha256=_sha256(path)
    )


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
