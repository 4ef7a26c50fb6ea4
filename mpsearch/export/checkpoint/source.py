"""The Hugging Face model that a plan is for: its ``config.json``, and its tensors where they are safetensors."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mpsearch.errors import ModelError

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Source:
    """What the user has of the model beside its ONNX graph.

    Attributes:
        config: Content of its ``config.json``; {} where none is given.
        files: Tensor name to the safetensors file that holds it; {} where there is none.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    def load(self, name: str) -> Tensor:
        """Return a tensor of the files."""
        with _open(self.files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, which is not read for it."""
        with _open(self.files[name]) as file:
            return tuple(file.get_slice(name).get_shape())


def read_source(path: Path | None) -> Source:
    """Return what lies at ``path``: a model's folder, its ``config.json`` alone, or nothing.

    Raises:
        ModelError: There is no readable ``config.json``, the model is quantised already, or a file is broken.
    """
    if path is None:
        return Source()
    file = path / _CONFIG if path.is_dir() else path
    config = _read_json(file)
    if config.get("quantization_config") is not None:
        raise ModelError(
            f"{file.name}: the model must not be quantised yet, but it has a quantization_config"
        )
    return Source(config, _find_tensors(path) if path.is_dir() else {})


def find_name(name: str, known: Collection[str]) -> str:
    """Return ``name`` as ``known`` has it: without the leading parts that a module around the model adds.

    A name that is not there in any form is returned as it is.
    """
    shorter = name
    while shorter not in known:
        _, dot, shorter = shorter.partition(".")
        if not dot:
            return name
    return shorter


def _find_tensors(folder: Path) -> dict[str, Path]:
    index = folder / _INDEX
    if index.is_file():
        files = sorted(set(_read_json(index).get("weight_map", {}).values()))
        if any(not isinstance(name, str) or Path(name).name != name for name in files):
            raise ModelError(f"{_INDEX} must name files beside it, but names others")
        paths = [folder / name for name in files]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    found: dict[str, Path] = {}
    for path in paths:
        with _open(path) as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path.name}: must be a readable safetensors file: {_line(error)}"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: must be a readable JSON file: {_line(error)}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path.name}: must hold a JSON object, got {type(found).__name__}")
    return found


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
