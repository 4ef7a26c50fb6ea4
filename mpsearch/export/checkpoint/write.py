"""Tensors as safetensors files, as Hugging Face names and splits them."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

LARGEST = 5_000_000_000
"""Bytes of one file, unless one tensor alone is larger."""


def write_tensors(
    tensors: Iterable[tuple[str, Tensor]], folder: Path, *, largest: int = LARGEST
) -> list[Path]:
    """Write ``tensors`` into ``folder``: one file, or several and their index. Return the files.

    Args:
        tensors: Names and contiguous tensors; taken one by one, so that only one file's are in memory.
        folder: Where to.
        largest: Bytes of one file.
    """
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = held = 0
    for name, tensor in tensors:
        if pending and held + tensor.nbytes > largest:
            shards.append(_save(pending, folder, len(shards)))
            pending, held = {}, 0
        pending[name] = tensor
        held += tensor.nbytes
        total += tensor.nbytes
    shards.append(_save(pending, folder, len(shards)))
    if len(shards) == 1:
        return [_part(folder, 0).rename(folder / "model.safetensors")]
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    paths = [_part(folder, i).rename(folder / name) for i, name in enumerate(names)]
    index = folder / "model.safetensors.index.json"
    where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    index.write_text(json.dumps(content, indent=2) + "\n")
    return [*paths, index]


def _save(tensors: dict[str, Tensor], folder: Path, number: int) -> list[str]:
    save_file(tensors, _part(folder, number), metadata={"format": "pt"})
    return list(tensors)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number}.safetensors"
