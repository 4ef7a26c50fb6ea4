"""Tensors that a plan changes: one safetensors file beside the plan, named in it with its digest.

A weight is there by layer, as its scheme stores it (``codes::NODE::INITIALISER``, and ``scales``, ``zeros``, ``tensor_scale``,
``mask`` where it has them), or, where pruning recovered it, in fp32 before it is quantised (``NODE::INITIALISER``); what is
added to a layer's output as ``bias::NODE``; a changed constant of the graph as ``constant::INITIALISER``. The file is read
as from a stranger: its digest, its size, and name, type and shape of every tensor must be as expected.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.artifacts import digest_file, write_bytes
from mpsearch.errors import PlanError

SUFFIX = ".weights.safetensors"
_HEADER, _HEADER_EACH = 100_000, 10_000
"""Bytes that a file may hold beside its tensors: once, and for each."""

Place = tuple[str, ...]
"""What its name in the file consists of: (node, initialiser), (part, node, initialiser), (bias, node), (constant, initialiser)."""
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class PlanWeights:
    """Tensors that a plan changes, in memory or in a file.

    Attributes:
        digest: SHA-256 of the file that holds them, or would.
        tensors: Place to array, where they are in memory.
        path: The file, where they are not.
    """

    digest: str
    tensors: Mapping[Place, Array] = field(default_factory=dict, compare=False, repr=False)
    path: Path | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a tensor of the file must be.

    Attributes:
        shape: Its shape.
        dtype: numpy's name of its type.
        is_needed: Whether the file must hold it.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    is_needed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def hold_weights(tensors: Mapping[Place, Array]) -> PlanWeights:
    """Return ``tensors`` as what a plan changes."""
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


def load_weights(weights: PlanWeights, expected: Mapping[Place, Expected]) -> dict[Place, Array]:
    """Return place to array of all that the file holds, each as ``expected``.

    Raises:
        PlanError: The file is missing, has changed, holds what is not expected, or lacks what is needed.
    """
    keys: dict[str, list[Place]] = {}
    for place in expected:
        keys.setdefault(_key(place), []).append(place)
    name = "the plan's weights" if weights.path is None else weights.path.name

    def check(key: str, shape: tuple[int, ...], dtype: str) -> None:
        if key not in keys:
            raise PlanError(
                f"{name}: must hold what the plan may change, and no more, but must not hold {key!r}"
            )
        if len(keys[key]) > 1:
            raise PlanError(f"{name}: {key!r} must stand for one tensor of the model, not for two")
        wanted = expected[keys[key][0]]
        if shape != wanted.shape or dtype != wanted.dtype:
            raise PlanError(
                f"{name}: {key!r} must be {wanted.dtype} of shape {list(wanted.shape)}, got {dtype} "
                f"of shape {list(shape)}"
            )

    if weights.path is None:
        found = {_key(place): array for place, array in weights.tensors.items()}
        for key, array in found.items():
            check(key, array.shape, array.dtype.name)
    else:
        most = _HEADER + sum(one.nbytes + _HEADER_EACH for one in expected.values())
        check_file(weights, most)
        found = _read(weights.path, check)
    for place, wanted in expected.items():
        if wanted.is_needed and _key(place) not in found:
            raise PlanError(f"{name}: must hold what the plan changes, but lacks {_key(place)!r}")
    for key, array in found.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise PlanError(f"{name}: {key!r} must be finite, but it holds NaN or Inf")
    return {keys[key][0]: array for key, array in found.items()}


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
    found = digest_file(path)
    if found != weights.digest:
        raise PlanError(
            f"{path.name}: must be the weights that the plan names ({weights.digest[:12]}), "
            f"got others ({found[:12]})"
        )


_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "U16": "uint16", "U8": "uint8"}


def _read(path: Path, check: Callable[[str, tuple[int, ...], str], None]) -> dict[str, Array]:
    """All tensors of the file, each checked by name, shape and type before its bytes are read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())  # no mapping
            for key in names:
                head = file.get_slice(key)
                given = head.get_dtype()
                check(key, tuple(head.get_shape()), _TYPES.get(given, given))
            return {key: file.get_tensor(key) for key in names}
    except PlanError:
        raise
    except (SafetensorError, TypeError, ValueError) as error:
        raise PlanError(f"{path.name}: must be a safetensors file: {error}") from None


def _serialise(tensors: Mapping[Place, Array]) -> bytes:
    from safetensors.numpy import save

    named = {
        _key(place): np.ascontiguousarray(array).reshape(array.shape)
        for place, array in tensors.items()
    }
    if len(named) < len(tensors):
        raise PlanError("nodes and initialisers must have names that differ when joined by '::'")
    return save(named)


def _key(place: Place) -> str:
    return "::".join(place)
