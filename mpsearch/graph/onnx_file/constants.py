"""Constant tensors by name, read when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from mpsearch.errors import ModelError, MpsearchError

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor whose shape and type are known before its bytes are read.

    Attributes:
        shape: Sizes.
        dtype: Element type.
        source: Name in the user's file that it stems from: an initialiser or a constant's output.
        load: Reads or computes the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    source: str
    load: Callable[[], Array]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory once loaded."""
        return self.size * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers, narrow ones included."""
        return is_float(self.dtype)


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Return whether ``dtype`` is a floating-point type, ``ml_dtypes``' narrow ones included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def in_memory(array: Array, source: str) -> Constant:
    """Return a constant that holds ``array`` itself, made read-only."""
    array = np.asarray(array).view()
    array.flags.writeable = False
    return Constant(array.shape, array.dtype, source, lambda: array)


class Constants(Mapping[str, Array]):
    """Value name to array; what is mapped from a file or computed is loaded when asked for.

    A loaded array lives as long as somebody else holds it, so that weights which are not in use
    need no memory. Arrays are read-only.

    Attributes:
        entries: Name to constant: shapes and types without reading.
        originals: The same for the floating-point tensors of the user's file, before folding.
    """

    __slots__ = ("_loaded", "entries", "originals")

    def __init__(self, entries: Mapping[str, Constant], originals: Mapping[str, Constant]) -> None:
        self.entries = dict(entries)
        self.originals = dict(originals)
        self._loaded: WeakValueDictionary[str, Array] = WeakValueDictionary()

    def __getitem__(self, name: str) -> Array:
        array = self._loaded.get(name)
        if array is None:
            array = load_checked(name, self.entries[name])
            self._loaded[name] = array
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Constants({len(self.entries)} tensors)"


def load_checked(name: str, constant: Constant) -> Array:
    """Return the array of ``constant``, read-only.

    Raises:
        ModelError: The bytes cannot be read or computed, or are not what the file declares.
    """
    try:
        array = constant.load()
    except MpsearchError:
        raise
    except Exception as error:
        raise ModelError(f"tensor {name!r} cannot be read: {error}") from error
    if array.shape != constant.shape:
        raise ModelError(f"tensor {name!r} must have the shape {constant.shape}, got {array.shape}")
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def total_bytes(constants: Mapping[str, Array]) -> int:
    """Return the bytes that ``constants`` need in memory, without loading what is not loaded."""
    if isinstance(constants, Constants):
        return sum(constant.nbytes for constant in constants.entries.values())
    return sum(array.nbytes for array in constants.values())
