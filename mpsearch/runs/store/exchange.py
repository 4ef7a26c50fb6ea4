"""Losses taken over from runs and other stores, and as Parquet files out of a store and into it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.artifacts import write_bytes
from mpsearch.errors import JobError, MissingExtraError
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.store.shared import SharedStore
from mpsearch.stats.estimates import Floats

_CHUNK = 2000
_COLUMNS = ("context", "about", "assignment", "schemes", "losses")

Row = tuple[str, tuple[int, ...], Floats]
"""Context, assignment, [n] losses."""


def import_into(store: SharedStore, source: Path) -> int:
    """Take over what a run folder, a store or a Parquet file holds; return how many losses are new.

    What is there already stays.

    Raises:
        JobError: It is none of these.
        MissingExtraError: A Parquet file needs pyarrow, which is not installed.
    """
    before = sum(store.counts().values())
    if source.is_dir():
        _import_run(store, source)
    elif source.suffix == ".parquet":
        _import_parquet(store, source)
    elif source.is_file():
        _import_store(store, source)
    else:
        raise JobError(f"{source.name}: must be a run folder, a store or a .parquet file")
    return sum(store.counts().values()) - before


def export_parquet(store: SharedStore, path: Path) -> int:
    """Write all losses of ``store`` as a Parquet file, a row an assignment; return how many.

    Columns: ``context`` and what it is ``about`` as JSON; ``assignment``, indices into ``schemes``, the definitions; ``losses``.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    schemes, contexts = store.schemes(), store.contexts()
    known = {context for context, about in contexts.items() if about}
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for context, about in contexts.items():
        for assignment, losses in store.items(context):
            used = sorted(set(assignment)) if context in known else []
            place = {number: i for i, number in enumerate(used)}
            columns["context"].append(context)
            columns["about"].append(json.dumps(about, sort_keys=True))
            columns["assignment"].append([place.get(s, s) for s in assignment])
            columns["schemes"].append([schemes[number] for number in used])
            columns["losses"].append(losses.astype(np.float32))
    table = arrow.table(
        {
            "context": arrow.array(columns["context"], arrow.string()).dictionary_encode(),
            "about": arrow.array(columns["about"], arrow.string()).dictionary_encode(),
            "assignment": arrow.array(columns["assignment"], arrow.list_(arrow.int32())),
            "schemes": arrow.array(columns["schemes"], arrow.list_(arrow.string())),
            "losses": arrow.array(columns["losses"], arrow.list_(arrow.float32())),
        }
    )
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())
    return int(table.num_rows)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(
            "Parquet files need pyarrow; pip install 'mpsearch[parquet]'"
        ) from None
    return pyarrow, parquet


def _import_parquet(store: SharedStore, path: Path) -> None:
    arrow, parquet = _arrow()
    try:
        file = parquet.ParquetFile(path)
        if not set(_COLUMNS) <= set(file.schema_arrow.names):
            raise JobError(f"{path.name}: must hold the columns {', '.join(_COLUMNS)}")
        for batch in file.iter_batches(batch_size=_CHUNK, columns=list(_COLUMNS)):
            rows = batch.to_pylist()
            definitions = sorted({text for row in rows for text in row["schemes"]})
            numbers = dict(zip(definitions, store.number_schemes(definitions), strict=True))
            for row in rows:
                if row["about"] != "{}":
                    store.describe(row["context"], json.loads(row["about"]))
            _put(store, (_from_parquet(row, numbers) for row in rows))
    except (OSError, arrow.ArrowInvalid) as error:
        raise JobError(
            f"{path.name}: must be a Parquet file: {str(error).splitlines()[0]}"
        ) from None


def _from_parquet(row: dict[str, Any], numbers: dict[str, int]) -> Row:
    own = [numbers[text] for text in row["schemes"]]
    assignment = tuple(own[s] if own else s for s in row["assignment"])
    return row["context"], assignment, np.array(row["losses"], np.float64)


def _import_store(store: SharedStore, path: Path) -> None:
    with SharedStore(str(path)) as other:
        definitions = other.schemes()
        ordered = list(definitions.values())
        numbers = dict(zip(definitions, store.number_schemes(ordered), strict=True))
        for context, about in other.contexts().items():
            if about:
                store.describe(context, about)
            _put(
                store,
                (
                    (context, tuple(numbers[s] for s in key) if about else key, losses)
                    for key, losses in other.items(context)
                ),
            )
        for digest, kind in other.artifacts().items():
            content = other.take(digest)
            if content is not None:
                store.keep(digest, kind, content)


def _import_run(store: SharedStore, run: Path) -> None:
    """Take over what a run measured; it says itself what its contexts are called where they are shared."""
    path = run / "evaluations.sqlite"
    if not path.is_file():
        raise JobError(f"{run.name}: must be a run folder that measured something")
    with EvaluationStore(path) as own:
        text = own.setting("shared")
        if text is None:
            raise JobError(
                f"{run.name}: was measured by an older mpsearch, which did not say what its losses are of; "
                "run the same search again with --store to share them"
            )
        said = json.loads(text)
        numbers = store.number_schemes(said["schemes"])
        for context, shared in said["contexts"].items():
            store.describe(shared, said["about"])
            _put(
                store,
                (
                    (shared, tuple(numbers[s] for s in key), losses)
                    for key, losses in own.items(context)
                ),
            )


def _put(store: SharedStore, rows: Iterator[Row]) -> None:
    """Put rows in chunks of one context."""
    chunk: list[tuple[tuple[int, ...], Floats]] = []
    last = ""
    for context, key, losses in rows:
        if chunk and (context != last or len(chunk) >= _CHUNK):
            store.put_many(last, chunk)
            chunk = []
        last = context
        chunk.append((key, losses))
    if chunk:
        store.put_many(last, chunk)
