"""Calibration and evaluation data: named arrays with one row a sample, from ``.npz`` files."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph, Value

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
            None: the model reads it whole, one for all samples of a batch (see :func:`check_batches`).
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
        part = np.s_[start : start + count]
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
                f"{files[0].name} has {_listed(parts[0])}, this one {_listed(part)}"
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
            f"got {_listed(arrays) or 'nothing'} ({', '.join(RESERVED)} are reserved)"
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


def check_batches(batches: Batches, graph: ModelGraph) -> Batches:
    """Return the data as ``graph`` reads them, once names, types and shapes are checked.

    Samples always come first in the data. Where the model has its batch at another axis (a recurrent
    model that reads time first, a state [layers, batch, width]) they are moved there; an input that no
    batch runs over (a sampling rate) is given once a sample, all alike, and read once. Where no input has
    a batch, each sample is the whole of all inputs and is run alone.

    Raises:
        DataError: They do not fit; the message names the array, what must hold and the choices.
    """
    wanted = {value.name: value for value in graph.inputs}
    for name in batches.arrays:
        if name not in wanted:
            raise DataError(
                f"{batches.source}: its arrays must be inputs of {graph.name}: "
                f"{', '.join(wanted)}; got {name!r}"
            )
    missing = [name for name in wanted if name not in batches.arrays]
    if missing:
        raise DataError(
            f"{batches.source}: must hold every input of {graph.name}: {', '.join(missing)} missing, "
            f"got {_listed(batches.arrays)}"
        )
    found = {
        name: fitting_axes(batches.arrays[name], value, graph.unbound, graph.batch_axes)[0]
        for name, value in wanted.items()
    }
    has_batch = any(axis is not None for axis in found.values())
    for name, value in wanted.items():
        array, axis = batches.arrays[name], found[name]
        _check_fit(batches.source, name, array, value, axis)
        if has_batch and axis is None and bool((array != array[:1]).any()):
            raise DataError(
                f"{batches.source}: array {name!r} must be the same for all samples: the model reads "
                f"{name!r} once a batch"
            )
    return with_axes(batches, found)


def with_axes(batches: Batches, axes: Mapping[str, int | None]) -> Batches:
    """Return the data with the axis of the samples in each input; without any, samples are run alone."""
    moved = {name: axis for name, axis in axes.items() if axis != 0}
    alone = bool(axes) and all(axis is None for axis in axes.values())
    return replace(batches, axes=moved, batch_size=1 if alone else batches.batch_size)


def fitting_axes(
    array: Array, value: Value, unbound: Collection[str], said: Mapping[str, int | None]
) -> list[int | None]:
    """Return the axes of an input that samples may run over, judged by sizes; the likeliest first.

    Args:
        array: The input's data, samples first.
        value: The input, None where an axis is free.
        unbound: ``input[axis]`` of the free axes that are no batch as far as is known.
        said: Input to its axis, where the user says it.

    Returns:
        At least one axis, which need not fit; None stands for an input without a batch.
    """
    if value.name in said:
        return [said[value.name]]
    likely = batch_axis(value, unbound)
    shape = value.shape
    if shape is None:
        return [likely]
    if array.ndim == len(shape) + 1:
        return [None]
    free = [axis for axis, size in enumerate(shape) if size is None]
    fitting = [axis for axis in free or range(len(shape)) if _fits(array, shape, axis)]
    fitting.sort(key=lambda axis: axis != likely)
    return [*fitting] or [likely]


def fill_up(x: Array, axis: int | None, missing: int) -> Array:
    """Return ``x`` with its last entry along ``axis`` repeated ``missing`` times more."""
    if axis is None:
        return x
    last = x.take([-1], axis)
    return np.concatenate([x, last.repeat(missing, axis)], axis)


def _fits(array: Array, shape: tuple[int | None, ...], axis: int | None) -> bool:
    sizes = [size for a, size in enumerate(shape) if a != axis]
    return len(sizes) + 1 == array.ndim and all(
        size is None or size == found for size, found in zip(sizes, array.shape[1:], strict=True)
    )


def data_shapes(
    batches: Batches,
    inputs: Sequence[Value],
    unbound: Collection[str],
    batch_axes: Mapping[str, int | None] | None = None,
) -> dict[str, tuple[int | None, ...]]:
    """Return the sizes that the data give to the axes of ``inputs``, None for the batch.

    Args:
        batches: The data; inputs that they lack are left out.
        inputs: Of the model, None where an axis is free.
        unbound: ``input[axis]`` of the free axes that are no batch.
        batch_axes: Input to the axis of the samples, where that was said.
    """
    said = batch_axes or {}
    found: dict[str, tuple[int | None, ...]] = {}
    for value in inputs:
        array = batches.arrays.get(value.name)
        if array is None:
            continue
        sizes: list[int | None] = list(array.shape[1:])
        axis = fitting_axes(array, value, unbound, said)[0]
        if axis is not None:
            sizes.insert(axis, None)
        found[value.name] = tuple(sizes)
    return found


def batch_axis(value: Value, unbound: Collection[str]) -> int:
    """Return the axis of an input that the batch runs over: the first free one that needs no size."""
    shape = value.shape or ()
    free = [
        axis
        for axis, size in enumerate(shape)
        if size is None and f"{value.name}[{axis}]" not in unbound
    ]
    return free[0] if free else 0


def _check_fit(source: str, name: str, array: Array, value: Value, axis: int | None) -> None:
    if value.dtype is not None and array.dtype != np.dtype(value.dtype):
        raise DataError(
            f"{source}: array {name!r} must be {value.dtype}, got {array.dtype}; "
            f"convert it with .astype(np.{value.dtype})"
        )
    if value.shape is None:
        return
    if not _fits(array, value.shape, axis):
        sizes = [s for a, s in enumerate(value.shape) if a != axis]
        shown = ", ".join(["samples", *("any" if s is None else str(s) for s in sizes)])
        where = f" (the model's axis {axis} is the batch)" if axis else ""
        raise DataError(
            f"{source}: array {name!r} must have shape [{shown}]{where}, got {list(array.shape)}"
        )


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


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
