"""Where the files of a job lie on this machine."""

from dataclasses import dataclass
from pathlib import Path

from mpsearch.cost.device import split_point
from mpsearch.errors import JobError
from mpsearch.registry import DataFolder, data_file
from mpsearch.runs.job import Job


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
        device=_find_device(job.device, own_device or folder),
        space=_name_or_file("search_spaces", job.space, own_space or folder, "space")
        if job.space
        else "",
    )


def _find_device(text: str, folder: Path) -> str:
    """Name or file of a device, and its operating point behind it."""
    name, point = split_point(text)
    found = _name_or_file("cost_models", name, folder, "device")
    return f"{found}@{point}" if point else found


def _name_or_file(kind: DataFolder, text: str, folder: Path, noun: str) -> str:
    """``text`` where it names a file that ships, else the path of the user's own file."""
    own = folder / text
    if text.endswith(".toml") and own.is_file():
        return str(own)
    data_file(kind, text, noun)  # raises where it is neither
    return text
