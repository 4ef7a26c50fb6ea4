"""What all kinds of raw data share: the result, labels, and paths that stay in their folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import NDArray

from mpsearch.data.batches import MAX_EXPANDED_BYTES, Array
from mpsearch.errors import DataError
from mpsearch.graph.model import Value

MOST_FILE_BYTES = 2**28
"""Largest text or table that is read."""


@dataclass(frozen=True, slots=True)
class Made:
    """Arrays for a model, and in words how they came about.

    Attributes:
        arrays: Input name to [n, …], with ``labels`` and ``sample_id`` where there are any.
        how: What was done to the raw data.
        labelled: Where labels come from; "" without labels.
    """

    arrays: Mapping[str, Array]
    how: str
    labelled: str = ""
    classes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels as numbers.

    Attributes:
        values: [n] int64 class indices or float32 values.
        classes: Names of the classes by index; () where the labels were numbers already.
    """

    values: NDArray[np.generic]
    classes: tuple[str, ...] = ()

    def describe(self, origin: str) -> str:
        """Return what the labels are, in a few words."""
        if self.values.dtype.kind == "f":
            return f"values {origin}"
        n = len(set(self.values.tolist()))
        if not self.classes:
            return f"{n} classes {origin}"
        shown = ", ".join(f"{name}={i}" for i, name in enumerate(self.classes[:4]))
        return f"{n} classes {origin} ({shown}{', …' if len(self.classes) > 4 else ''})"


def read_labels(words: Sequence[str], where: str) -> Labels:
    """Return words as class indices (whole numbers as they are, names in alphabetical order) or values.

    Raises:
        DataError: A word is empty.
    """
    for line, word in enumerate(words, 1):
        if not word:
            raise DataError(f"{where}: every sample must have a label, but number {line} has none")
    try:
        return Labels(np.array([int(word) for word in words], np.int64))
    except (ValueError, OverflowError):
        pass
    try:
        numbers = np.array([float(word) for word in words], np.float32)
        if np.isfinite(numbers).all():
            return Labels(numbers)
    except ValueError:
        pass
    classes = tuple(sorted(set(words)))
    place = {name: index for index, name in enumerate(classes)}
    return Labels(np.array([place[word] for word in words], np.int64), classes)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        DataError: It cannot be read, is too large, or is no UTF-8 text.
    """
    try:
        size = path.stat().st_size
        if size > MOST_FILE_BYTES:
            raise DataError(
                f"{path.name}: at most {MOST_FILE_BYTES >> 20} MiB are read, got {size >> 20} MiB"
            )
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name}: must be UTF-8 text, but byte {error.start} is none"
        ) from None


def inside(folder: Path, name: str, where: str) -> Path:
    """Return the file ``name`` below ``folder``.

    Raises:
        DataError: It lies outside the folder, also through links, or does not exist.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {name!r} is no file name: {error}") from None
    if not path.is_relative_to(root):
        raise DataError(f"{where}: files must lie below {folder.name}, got {name!r}")
    if not path.is_file():
        raise DataError(f"{where}: {name!r} is no file below {folder.name}")
    return path


def spread(n: int, limit: int | None) -> list[int]:
    """Return at most ``limit`` indices below ``n``, evenly spread."""
    if limit is None or limit >= n:
        return list(range(n))
    return sorted({round(i * (n - 1) / max(limit - 1, 1)) for i in range(limit)})


def check_bytes(n: int, shape: Sequence[int], dtype: str, what: str) -> None:
    """Check that ``n`` samples of ``shape`` can be read again.

    Raises:
        DataError: They would be larger than data may be.
    """
    total = n * prod(shape) * np.dtype(dtype).itemsize
    if total > MAX_EXPANDED_BYTES:
        raise DataError(
            f"{what}: {n} samples are {total / 2**30:.1f} GiB, of at most "
            f"{MAX_EXPANDED_BYTES / 2**30:g}; take fewer with --limit"
        )


def write_arrays(arrays: Mapping[str, Array], path: Path) -> None:
    """Write ``arrays`` to ``path`` as ``numpy.savez_compressed`` does, whatever their names are."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def listed(inputs: Sequence[Value]) -> str:
    """Return inputs in words: name, type and sizes."""
    return ", ".join(
        f"{v.name} {v.dtype} [{', '.join('any' if s is None else str(s) for s in v.shape or ())}]"
        for v in inputs
    )
