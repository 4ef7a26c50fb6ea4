"""A training that can go on later: its tensors and numbers in one safetensors file, read as from a stranger."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mpsearch.artifacts import write_bytes

SUFFIX = ".training.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training is kept, and which one it is.

    Attributes:
        path: The file.
        identity: Digest of all that the training follows from; a file of another one is not read.
    """

    path: Path
    identity: str

    def write(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Write the file whole."""
        from safetensors.torch import save

        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        said = {"identity": self.identity, "numbers": json.dumps(dict(numbers))}
        write_bytes(self.path, save(own, metadata=said))

    def read(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], Any] | None:
        """Return tensors and numbers, None where there is no file of this training that holds what ``shapes`` says."""
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                said = file.metadata() or {}
                if said.get("identity") != self.identity:
                    return None
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            numbers = json.loads(said["numbers"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        fits = all(
            name in tensors and tuple(tensors[name].shape) == shape
            for name, shape in shapes.items()
        )
        return (tensors, numbers) if fits else None

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)


def checkpoint_file(out: Path) -> Path:
    """Return where a training that writes ``out`` is kept meanwhile."""
    return out.with_name(out.stem + SUFFIX)
