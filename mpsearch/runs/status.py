"""How far a run is, from its files alone."""

from dataclasses import dataclass
from pathlib import Path

from mpsearch.errors import JobError
from mpsearch.runs.lock import Holder, find_holder
from mpsearch.runs.log import read_events
from mpsearch.runs.record import RunRecord, read_record


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is.

    Attributes:
        name: The folder.
        state: ``running``, ``finished``, ``failed``, ``interrupted``, or ``died``: begun and never ended.
        holder: Who works on it; None where nobody does.
        stages: Stages that are done, with seconds and peak memory.
        evaluations: Whole assignments whose losses are kept, as last counted.
        seconds: Wall time of the last command that reached the end.
        said: What it failed of, or was interrupted with.
    """

    name: str
    state: str
    holder: Holder | None
    stages: dict[str, tuple[float, int]]
    evaluations: int
    seconds: float
    said: str = ""


def read_status(path: Path) -> Status:
    """Return how far the run in the folder ``path`` is.

    Raises:
        JobError: There is no such folder, or it is no run.
        ArtifactError: Its ``run.json`` is damaged.
    """
    if not (path / "log.jsonl").is_file() and not (path / "run.json").is_file():
        raise JobError(f"{path.name}: must be a run folder, made by `mpsearch search`")
    try:
        record = read_record(path)
    except JobError:
        record = RunRecord()
    events = [event for event in read_events(path) if event.get("event") != "worker"]
    last = events[-1] if events else {}
    holder = find_holder(path)
    return Status(
        name=path.name,
        state=_state(record, last, holder),
        holder=holder,
        stages={name: (stage.seconds, stage.peak_bytes) for name, stage in record.stages.items()},
        evaluations=record.evaluations,
        seconds=record.seconds,
        said=str(last.get("said", "")),
    )


def find_runs(paths: list[Path]) -> list[Path]:
    """Return the run folders among ``paths`` and within those that are none.

    Raises:
        JobError: One holds no run.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "job.toml").is_file() or (path / "log.jsonl").is_file():
            found.append(path)
            continue
        inner = sorted(p.parent for p in path.glob("*/job.toml")) if path.is_dir() else []
        if not inner:
            raise JobError(
                f"{path.name}: must be a run folder, made by `mpsearch search`, or hold some"
            )
        found += inner
    return found


def _state(record: RunRecord, last: dict[str, object], holder: Holder | None) -> str:
    event = last.get("event")
    if holder is not None:
        return "running"
    if event in ("failed", "interrupted"):
        return str(event)
    if record.results is not None and not record.interrupted:
        return "finished"
    return "died" if event is not None else "interrupted"
