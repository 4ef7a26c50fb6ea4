"""Data as a model reads them: names, types and sizes checked, and the axis that samples run over."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mpsearch.data.batches import Array, Batches, listed_names
from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph, Value


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
            f"got {listed_names(batches.arrays)}"
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
