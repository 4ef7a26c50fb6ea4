"""Lines of text as the inputs of a language model."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mpsearch.data.batches import Array
from mpsearch.data.sources import Labels, Made, check_bytes, listed, read_labels, read_lines, spread
from mpsearch.errors import DataError, MissingExtraError
from mpsearch.graph.model import ModelGraph, Value

KINDS = ("ids", "mask", "types", "positions", "empty")
_NAMES = {
    "input_ids": "ids",
    "attention_mask": "mask",
    "token_type_ids": "types",
    "position_ids": "positions",
}
_LONGEST = 128


def read_text(
    path: Path,
    graph: ModelGraph,
    *,
    tokenizer: Path,
    max_length: int | None = None,
    kinds: Mapping[str, str] = {},
    labels: Path | None = None,
    limit: int | None = None,
) -> Made:
    """Return the lines of ``path`` as token ids, with masks, types and positions where the model asks.

    Samples are cut and padded to the model's own length, or to the longest line's where it takes any.
    Past keys and values of a decoder are empty.

    Args:
        path: One sample a line; empty lines are skipped.
        graph: The model.
        tokenizer: A ``tokenizer.json``.
        max_length: Longest sample in tokens; None: the model's, else 128.
        kinds: Input name to ``ids``, ``mask``, ``types``, ``positions`` or ``empty``, where names do not tell.
        labels: One label a line, for the lines of ``path`` that are not empty.
        limit: At most so many samples, evenly spread.

    Raises:
        MissingExtraError: tokenizers is not installed.
        DataError: A file cannot be read, or an input of the model cannot be filled.
    """
    if find_spec("tokenizers") is None:
        raise MissingExtraError(
            "text needs the package 'tokenizers'; install it with: pip install 'mpsearch[data]'"
        )
    wanted = _find_inputs(graph, kinds)
    lines = [line for line in read_lines(path) if line.strip()]
    if not lines:
        raise DataError(f"{path.name}: must hold one sample a line, got none")
    chosen = spread(len(lines), limit)
    found: Labels | None = None
    if labels is not None:
        words = [line.strip() for line in read_lines(labels) if line.strip()]
        if len(words) != len(lines):
            raise DataError(
                f"{labels.name}: must hold one label for each of {len(lines)} samples, got {len(words)}"
            )
        every = read_labels(words, labels.name)
        found = Labels(every.values[chosen], every.classes)
    fixed = {size for value, kind in wanted if kind != "empty" and (size := _length(value))}
    if len(fixed) > 1:
        raise DataError(f"{graph.name}: inputs must agree in length, got {listed(graph.inputs)}")
    length = fixed.pop() if fixed else None
    if length and max_length and max_length != length:
        raise DataError(f"the model takes {length} tokens, --max-length gives {max_length}")
    columns, cut = _tokenize([lines[i] for i in chosen], tokenizer, length, max_length or _LONGEST)
    n, width = columns["ids"].shape
    arrays: dict[str, Array] = {}
    for value, kind in wanted:
        if kind == "empty":
            shape = [n, *(size or 0 for size in (value.shape or ())[1:])]
            arrays[value.name] = np.zeros(shape, value.dtype)
            continue
        check_bytes(n, (width,), value.dtype or "int64", path.name)
        arrays[value.name] = columns[kind].astype(value.dtype or "int64")
    if found is not None:
        arrays["labels"] = found.values
    filled = ", ".join(f"{value.name}: {kind}" for value, kind in wanted)
    how = f"{width} tokens by {tokenizer.name} ({filled})" + (f", {cut} samples cut" if cut else "")
    origin = f"of {labels.name}" if labels is not None else ""
    return Made(
        arrays,
        how,
        found.describe(origin) if found is not None else "",
        found.classes if found is not None else (),
    )


def _find_inputs(graph: ModelGraph, kinds: Mapping[str, str]) -> list[tuple[Value, str]]:
    """Return each input of the model and what it takes."""
    names = [value.name for value in graph.inputs]
    for name, kind in kinds.items():
        if name not in names or kind not in KINDS:
            raise DataError(
                f"--as must read like NAME=KIND with a name of {', '.join(names)} and a kind of "
                f"{', '.join(KINDS)}; got {name}={kind}"
            )
    result: list[tuple[Value, str]] = []
    for value in graph.inputs:
        known = kinds.get(value.name) or _NAMES.get(value.name)
        is_float = value.dtype is not None and value.dtype.startswith(("float", "bfloat"))
        if known is None and is_float and value.shape is not None and len(value.shape) >= 4:
            known = "empty"  # past keys and values
        result.append((value, known or ""))
    unknown = [value for value, kind in result if not kind]
    if len(unknown) == 1 and not any(kind == "ids" for _, kind in result):
        result = [(value, kind or "ids") for value, kind in result]
    elif unknown:
        raise DataError(
            f"{graph.name}: what {unknown[0].name!r} takes must be said with "
            f"--as {unknown[0].name}=KIND, one of {', '.join(KINDS)}; inputs: {listed(graph.inputs)}"
        )
    if not any(kind == "ids" for _, kind in result):
        raise DataError(f"{graph.name} must take token ids, it takes {listed(graph.inputs)}")
    return result


def _length(value: Value) -> int | None:
    return value.shape[1] if value.shape is not None and len(value.shape) == 2 else None


def _tokenize(
    lines: Sequence[str], path: Path, length: int | None, longest: int
) -> tuple[dict[str, Array], int]:
    """Return ids, mask, types and positions [n, T], and how many samples were cut."""
    from tokenizers import Tokenizer

    try:
        if not path.is_file():
            raise DataError(f"{path.name}: the tokenizer file must exist; give it with --tokenizer")
        made = Tokenizer.from_file(str(path))
    except DataError:
        raise
    except Exception as error:  # the package raises plain Exception
        said = " ".join(str(error).split())
        raise DataError(f"{path.name}: must be a tokenizer.json: {said}") from None
    padding = made.padding or {}
    made.no_padding()
    made.enable_truncation(length or longest)
    encoded = made.encode_batch(list(lines))
    width = length or max(len(entry.ids) for entry in encoded)
    if width == 0:
        raise DataError(f"{path.name}: samples must have tokens, got none")
    n = len(encoded)
    ids = np.full((n, width), int(padding.get("pad_id", made.token_to_id("[PAD]") or 0)), np.int64)
    types = np.full((n, width), int(padding.get("pad_type_id", 0)), np.int64)
    mask = np.zeros((n, width), np.int64)
    for row, entry in enumerate(encoded):
        own = len(entry.ids)
        ids[row, :own], types[row, :own], mask[row, :own] = entry.ids, entry.type_ids, 1
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
    cut = sum(bool(entry.overflowing) for entry in encoded)
    return {"ids": ids, "types": types, "mask": mask, "positions": positions}, cut
