"""Calibration and evaluation data: named arrays with one row a sample, from ``.npz`` files."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mpsearch.errors import DataError

Array = NDArray[Any]

RESERVED = ("labels", "sample_id", "slice")
MAX_EXPANDED_BYTES = 8 * 2**30
DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Batches:
    """Samples of every model input, cut into batches of one size.

    Attributes:
        arrays: Input name to array, first axis = samples.
        labels: [n, …] what the model should answer; None without labels.
        sample_id: [n] names of the samples; None if they have none.
        slice: [n] name of the part of the data that each sample belongs to; None if there are none.
        batch_size: Rows that are run together; the last batch may be shorter.
        digest: SHA-256 of names, types, shapes and contents.
        axes: Input name to the axis that samples run over in the model, where that is not the first;
            None: the model reads it whole, one for all samples of a batch (see :func:`mpsearch.data.fit.check_batches`).
        run_rows: Rows that the model must be run on at a time, where it takes no other number or mixes
            samples that are run together; 0: a whole batch.
        source: What messages call the data.
    """

    arrays: Mapping[str, Array]
    labels: Array | None
    sample_id: Array | None
    slice: Array | None
    batch_size: int
    digest: str
    axes: Mapping[str, int | None] = field(default_factory=dict)
    run_rows: int = 0
    source: str = "data"

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.arrays.values())))

    @property
    def run_size(self) -> int:
        """Samples of a run of the model; the last one has fewer, or is filled up."""
        return self.run_rows or self.batch_size

    @property
    def n_runs(self) -> int:
        """Runs of the model that take all samples."""
        return -(-len(self) // self.run_size)

    def iterate(self) -> Iterator[dict[str, Array]]:
        """Yield input name → array as the model reads it, one run at a time, in order."""
        return map(self.feed_run, range(self.n_runs))

    def feed_run(self, run: int) -> dict[str, Array]:
        """Return input name → array of a run: its last sample is repeated where the model needs more."""
        start, size = run * self.run_size, self.run_size
        feed = self.feed(start, size)
        missing = start + size - len(self)
        if self.run_rows < 2 or missing < 1:
            return feed
        axes = {name: self.axes.get(name, 0) for name in feed}
        return {name: fill_up(x, axes[name], missing) for name, x in feed.items()}

    def feed(self, start: int, count: int) -> dict[str, Array]:
        """Return input name → array of ``count`` samples from number ``start``, as the model reads it."""
        rows, found = np.s_[start : start + count], {}
        for name, array in self.arrays.items():
            axis = self.axes.get(name, 0)
            if axis is None:
                found[name] = np.asarray(array[start])
            else:
                found[name] = array[rows] if axis == 0 else np.moveaxis(array[rows], 0, axis)
        return found

    def take(self, n: int) -> "Batches":
        """Return the first ``n`` samples, or all where there are fewer."""
        if n < 1:
            raise DataError(f"`n >= 1` must hold for the number of samples to take, got {n}")
        return self if n >= len(self) else self.rows(0, n)

    def rows(self, start: int, count: int) -> "Batches":
        """Return ``count`` samples from number ``start`` on, or what there is of them."""
        return self._cut(np.s_[start : start + count])

    def pick(self, numbers: Sequence[int]) -> "Batches":
        """Return the samples of these numbers, in this order."""
        return self._cut(np.asarray(numbers, np.int64))

    def _cut(
        self, part: Any
    ) -> "Batches":  # a slice or an array of numbers: `slice` is a field here
        arrays = {name: array[part] for name, array in self.arrays.items()}
        reserved: dict[str, Any] = {
            name: None if (array := getattr(self, name)) is None else array[part]
            for name in RESERVED
        }
        present = {name: array for name, array in reserved.items() if array is not None}
        return replace(self, arrays=arrays, **reserved, digest=_digest({**arrays, **present}))


def read_batches(
    path: str | Path, *, limit: int | None = None, batch_size: int = DEFAULT_BATCH_SIZE
) -> Batches:
    """Read an ``.npz`` of named input arrays, or a folder of them that are put one after another.

    The names ``labels``, ``sample_id`` and ``slice`` are reserved; every other array is an input of
    the model. No pickle is ever read, and what the files would expand to is added up from their
    headers before anything is expanded.

    Args:
        path: The file or folder.
        limit: Keep the first ``limit`` samples.
        batch_size: Rows that are run together.

    Raises:
        DataError: The file is missing, damaged, too large, not finite or inconsistent.
    """
    path = Path(path)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path.name}: the folder must hold .npz files, got none")
    expanded = sum(_expanded_bytes(file) for file in files)
    if expanded > MAX_EXPANDED_BYTES:
        raise DataError(
            f"{path.name}: arrays must expand to at most {MAX_EXPANDED_BYTES / 2**30:g} GiB, "
            f"got {expanded / 2**30:.1f} GiB; split the data or give fewer samples"
        )
    parts = [_load(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.keys() != parts[0].keys():
            raise DataError(
                f"{file.name}: every file of a folder must hold the same arrays; "
                f"{files[0].name} has {listed_names(parts[0])}, this one {listed_names(part)}"
            )
    try:
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except ValueError as error:
        raise DataError(f"{path.name}: files of a folder must fit together: {error}") from None
    return make_batches(arrays, limit=limit, batch_size=batch_size, source=path.name)


def call_batches(
    target: str, *, limit: int | None = None, batch_size: int = DEFAULT_BATCH_SIZE
) -> Batches:
    """Import ``module:function``, call it, and take the mapping of arrays that it returns.

    This runs the module's code: call it only with a name that the user gave for that purpose.

    Raises:
        DataError: The function cannot be found, or returns no mapping of names to arrays.
    """
    module, _, attribute = target.partition(":")
    try:
        function: Callable[[], Mapping[str, Array]] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"data must be module:function that imports; {target!r}: {error}") from None
    arrays = function()
    if not isinstance(arrays, Mapping):
        raise DataError(
            f"{target} must return a mapping of array names to arrays, got {type(arrays).__name__}"
        )
    arrays = {str(name): np.asarray(array) for name, array in arrays.items()}
    return make_batches(arrays, limit=limit, batch_size=batch_size, source=target)


def make_batches(
    arrays: Mapping[str, Array],
    *,
    limit: int | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    source: str = "data",
) -> Batches:
    """Return named arrays as batches, once they are checked against each other.

    Args:
        arrays: Name to array, first axis = samples; reserved names as in :func:`read_batches`.
        limit: Keep the first ``limit`` samples.
        batch_size: Rows that are run together.
        source: What messages call the data.

    Raises:
        DataError: No input, unequal numbers of samples, NaN or Inf, or a type that is no number.
    """
    if batch_size < 1:
        raise DataError(f"`batch_size >= 1` must hold, got {batch_size}")
    inputs = {name: array for name, array in arrays.items() if name not in RESERVED}
    if not inputs:
        raise DataError(
            f"{source}: at least one array must be an input of the model; "
            f"got {listed_names(arrays) or 'nothing'} ({', '.join(RESERVED)} are reserved)"
        )
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(
                f"{source}: array {name!r} must have samples as first axis, got a scalar"
            )
    sizes = {name: len(array) for name, array in arrays.items()}
    empty = [name for name, size in sizes.items() if size < 1]
    if empty:
        raise DataError(
            f"{source}: there must be at least one sample, but array {empty[0]!r} has shape "
            f"{list(arrays[empty[0]].shape)}: none"
        )
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(f"{source}: all arrays must have the same number of samples; got {counts}")
    n = min(sizes.values()) if limit is None else min(limit, *sizes.values())
    if n < 1:
        raise DataError(f"`limit >= 1` must hold, got {limit}")
    kept = {name: np.ascontiguousarray(array[:n]) for name, array in arrays.items()}
    for name, array in kept.items():
        _check_finite(source, name, array)
    return Batches(
        arrays={name: kept[name] for name in sorted(inputs)},
        labels=kept.get("labels"),
        sample_id=kept.get("sample_id"),
        slice=kept.get("slice"),
        batch_size=batch_size,
        digest=_digest(kept),
        source=source,
    )


def fill_up(x: Array, axis: int | None, missing: int) -> Array:
    """Return ``x`` with its last entry along ``axis`` repeated ``missing`` times more."""
    if axis is None:
        return x
    last = x.take([-1], axis)
    return np.concatenate([x, last.repeat(missing, axis)], axis)


def _check_finite(source: str, name: str, array: Array) -> None:
    if array.dtype.kind not in ("biufU" if name in RESERVED else "biuf"):
        raise DataError(f"{source}: array {name!r} must hold numbers, got type {array.dtype}")
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"{source}: array {name!r} must be finite, but {bad.sum()} of {len(array)} samples hold "
            f"NaN or Inf, the first is sample {int(bad.argmax())}"
        )


def _expanded_bytes(path: Path) -> int:
    """Bytes that the members claim in the zip's directory: reading never goes beyond the claim."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise DataError(
            f"{path.name}: data must be an .npz file (numpy.savez) or a folder of them"
        ) from None


def _load(path: Path) -> dict[str, Array]:
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as stream:
                    _check_header(path, info, stream)
                with archive.open(info) as stream:
                    arrays[info.filename.removesuffix(".npy")] = npy.read_array(
                        stream, allow_pickle=False
                    )
    except DataError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise DataError(f"{path.name}: the file is damaged: {e}") from None
    return arrays


def _check_header(path: Path, info: zipfile.ZipInfo, stream: IO[bytes]) -> None:
    """Refuse objects, and headers that claim more elements than the member has bytes."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(
            f"{path.name}: array {info.filename!r} holds Python objects (pickle), which are not read"
        )
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize > info.file_size:
        raise DataError(
            f"{path.name}: the file is damaged: {info.filename!r} claims {list(shape)} {dtype}, "
            f"but holds {info.file_size} bytes"
        )


def _digest(arrays: Mapping[str, Array]) -> str:
    hasher = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hasher.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def listed_names(names: Mapping[str, object]) -> str:
    """Return names in alphabetical order, in words."""
    return ", ".join(sorted(names))
