"""Tensors that a plan changes: one safetensors file beside the plan, named in it with its digest.

They are fp32, shaped as the node reads them once the model is folded, before they are quantised. The file is
read as from a stranger: its digest, its size, and name, type and shape of every tensor must be as expected.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpsearch.artifacts import write_bytes
from mpsearch.errors import PlanError

SUFFIX = ".weights.safetensors"
_HEADER, _HEADER_EACH = 100_000, 10_000
"""Bytes that a file may hold beside its tensors: once, and for each."""

Place = tuple[str, str]
"""Node and initialiser of the user's file."""


@dataclass(frozen=True, slots=True)
class PlanWeights:
    """Tensors that a plan changes, in memory or in a file.

    Attributes:
        digest: SHA-256 of the file that holds them, or would.
        tensors: (node, initialiser) to fp32 array, where they are in memory.
        path: The file, where they are not.
    """

    digest: str
    tensors: Mapping[Place, NDArray[np.float32]] = field(
        default_factory=dict, compare=False, repr=False
    )
    path: Path | None = field(default=None, compare=False, repr=False)


def hold_weights(tensors: Mapping[Place, NDArray[np.float32]]) -> PlanWeights:
    """Return ``tensors``, (node, initialiser) to fp32 array, as what a plan changes."""
    return PlanWeights(hashlib.sha256(_serialise(tensors)).hexdigest(), dict(tensors))


def write_weights(weights: PlanWeights, path: Path) -> None:
    """Write the file of ``weights`` to ``path``, atomically.

    Raises:
        PlanError: They lie in a file that is missing or has changed.
    """
    if weights.path is None:
        write_bytes(path, _serialise(weights.tensors))
        return
    check_file(weights)
    if weights.path != path:
        write_bytes(path, weights.path.read_bytes())


def load_weights(
    weights: PlanWeights, shapes: Mapping[Place, tuple[int, ...]]
) -> dict[Place, NDArray[np.float32]]:
    """Return (node, initialiser) to fp32 array, for exactly the keys of ``shapes``.

    Raises:
        PlanError: The file is missing, has changed, or does not hold these tensors in these shapes.
    """
    keys = {_key(place): place for place in shapes}
    if weights.path is None:
        found = {_key(place): array for place, array in weights.tensors.items()}
    else:
        found = _read(weights, {_key(place): shape for place, shape in shapes.items()})
    name = "the plan's weights" if weights.path is None else weights.path.name
    for key in sorted(found.keys() ^ keys.keys()):
        said = "lacks" if key in keys else "must not hold"
        raise PlanError(f"{name}: must hold what the plan changes, and no more, but {said} {key!r}")
    for key, array in found.items():
        if array.shape != shapes[keys[key]] or array.dtype != np.float32:
            raise PlanError(
                f"{name}: {key!r} must be float32 of shape {list(shapes[keys[key]])}, got {array.dtype} "
                f"of shape {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise PlanError(f"{name}: {key!r} must be finite, but it holds NaN or Inf")
    return {keys[key]: array for key, array in found.items()}


def check_file(weights: PlanWeights, most: int | None = None) -> None:
    """Check that the file of ``weights`` is there, of at most ``most`` bytes, and has its digest.

    Raises:
        PlanError: It is not, or has another.
    """
    path = weights.path
    assert path is not None
    if not path.is_file():
        raise PlanError(f"{path.name}: the weights that the plan changes must lie beside it")
    size = path.stat().st_size
    if most is not None and size > most:
        raise PlanError(
            f"{path.name}: must be of at most {most} bytes for what the plan changes, got {size}"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != weights.digest:
        raise PlanError(
            f"{path.name}: must be the weights that the plan names ({weights.digest[:12]}), "
            f"got others ({found[:12]})"
        )


def _read(
    weights: PlanWeights, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """All tensors of the file, once names, types and shapes are known to be right."""
    from safetensors import SafetensorError, safe_open

    path = weights.path
    assert path is not None
    most = _HEADER + sum(4 * prod(shape) + _HEADER_EACH for shape in shapes.values())
    check_file(weights, most)
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, TypeError, ValueError) as error:
        raise PlanError(f"{path.name}: must be a safetensors file: {error}") from None


def _serialise(tensors: Mapping[Place, NDArray[np.float32]]) -> bytes:
    from safetensors.numpy import save

    named = {_key(place): np.ascontiguousarray(array) for place, array in tensors.items()}
    if len(named) < len(tensors):
        raise PlanError("nodes and initialisers must have names that differ when joined by '::'")
    return save(named)


def _key(place: Place) -> str:
    return "::".join(place)
