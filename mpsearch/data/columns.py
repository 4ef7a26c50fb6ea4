"""Columns of a table as the inputs of a model."""

import csv
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from mpsearch.data.batches import Array
from mpsearch.data.sources import Labels, Made, check_bytes, listed, read_labels, read_lines, spread
from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph


def read_table(
    path: Path, graph: ModelGraph, *, label: str | None = None, limit: int | None = None
) -> Made:
    """Return the columns of a ``.csv`` or ``.tsv`` file as the model's inputs, in order.

    The first row may hold names. Each input takes as many columns as a sample of it has elements.

    Args:
        path: The table.
        graph: The model, all axes but the batch bound.
        label: Name of the column of labels, or its number from 1 where columns have no names.
        limit: At most so many rows, evenly spread.

    Raises:
        DataError: A cell is no number (line and column are named), or the columns do not fit.
    """
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        rows = [row for row in csv.reader(read_lines(path), delimiter=separator) if row]
    except csv.Error as error:
        raise DataError(f"{path.name}: must be a table: {error}") from None
    if not rows:
        raise DataError(f"{path.name}: must hold rows, got none")
    header = [cell.strip() for cell in rows[0]]
    named = not any(_is_number(cell) for cell in header)
    names = header if named else [str(i + 1) for i in range(len(header))]
    body = rows[1:] if named else rows
    if not body:
        raise DataError(f"{path.name}: must hold rows below its header, got none")
    for line, row in enumerate(body, 2 if named else 1):
        if len(row) != len(names):
            raise DataError(f"{path.name}: row {line} must have {len(names)} cells, got {len(row)}")
    chosen = spread(len(body), limit)
    found: Labels | None = None
    columns = list(range(len(names)))
    if label is not None:
        if label not in names:
            raise DataError(
                f"{path.name}: --label must be a column of {', '.join(names[:20])}; got {label!r}"
            )
        index = names.index(label)
        columns.remove(index)
        every = read_labels([row[index].strip() for row in body], f"{path.name}: {label}")
        found = Labels(every.values[chosen], every.classes)
    numbers = _numbers(path, body, names, columns, chosen, 2 if named else 1)
    arrays, taken = _divide(path, graph, numbers, [names[i] for i in columns])
    if found is not None:
        arrays["labels"] = found.values
    return Made(
        arrays,
        f"columns {taken}",
        found.describe(f"of column {label}") if found is not None else "",
        found.classes if found is not None else (),
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(
    path: Path,
    body: Sequence[Sequence[str]],
    names: Sequence[str],
    columns: Sequence[int],
    chosen: Sequence[int],
    first: int,
) -> Array:
    check_bytes(len(chosen), (len(columns),), "float64", path.name)
    numbers = np.empty((len(chosen), len(columns)))
    for place, row in enumerate(chosen):
        for at, column in enumerate(columns):
            cell = body[row][column].strip()
            try:
                numbers[place, at] = float(cell)
            except ValueError:
                raise DataError(
                    f"{path.name}: cells must be numbers, but row {row + first}, column "
                    f"{names[column]} holds {cell[:40]!r}; if it is the label, say --label {names[column]}"
                ) from None
    return numbers


def _divide(
    path: Path, graph: ModelGraph, numbers: Array, names: Sequence[str]
) -> tuple[dict[str, Array], str]:
    """Cut the columns into the inputs, in order."""
    widths = []
    for value in graph.inputs:
        sizes = (value.shape or (None, None))[1:]
        if len(graph.inputs) == 1 and sizes == (None,):
            sizes = (len(names),)
        if value.shape is None or any(size is None for size in sizes):
            raise DataError(
                f"sizes of {listed([value])} must be known: give them with "
                f"--shape {value.name}=?,{','.join('?' if s is None else str(s) for s in sizes)}"
            )
        widths.append((value, tuple(size or 0 for size in sizes)))
    needed = sum(prod(sizes) for _, sizes in widths)
    if needed != len(names):
        raise DataError(
            f"{path.name}: the model takes {needed} columns ({listed(graph.inputs)}), got {len(names)}: "
            f"{', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
        )
    arrays: dict[str, Array] = {}
    start, said = 0, []
    for value, sizes in widths:
        stop = start + prod(sizes)
        part = numbers[:, start:stop]
        dtype = np.dtype(value.dtype or "float32")
        if dtype.kind in "iu" and not np.array_equal(part, np.round(part)):
            raise DataError(f"{path.name}: input {value.name!r} takes whole numbers, got fractions")
        arrays[value.name] = part.reshape(len(part), *sizes).astype(dtype)
        said.append(f"{names[start]}–{names[stop - 1]} to {value.name}" if stop > start else "")
        start = stop
    return arrays, ", ".join(filter(None, said))
