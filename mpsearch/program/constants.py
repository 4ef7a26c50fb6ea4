"""Constants as tensors: shared with the file's memory map, held, or made anew whenever they are used."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.program.device_placement import place_constant
from mpsearch.program.operators.attributes import Kernel

_SMALL = 1 << 16  # bytes that are not worth making anew

Arrays = Mapping[str, NDArray[np.generic]]


class ConstantTensors(Mapping[int, Tensor]):
    """Slot to tensor; what does not fit in memory is loaded, or computed, for each use.

    Attributes:
        held: Those that are always at hand: they are small, mapped from a file, or fit the limit.
    """

    __slots__ = ("_loaders", "held")

    def __init__(
        self,
        arrays: Arrays,
        slots: Mapping[str, int],
        device: torch.device,
        limit: int,
        *,
        keep: Collection[str] = (),
    ) -> None:
        """Hold at most ``limit`` bytes of what is not mapped from a file, and all of ``keep``."""
        self.held: dict[int, Tensor] = {}
        self._loaders: dict[int, Callable[[], Tensor]] = {}
        left = limit

        def loader(name: str) -> Callable[[], Tensor]:
            return lambda: place_constant(arrays[name], device)

        for name in arrays:
            array = arrays[name]
            tensor = place_constant(array, device)
            mapped = _is_mapped(array, tensor)
            if mapped or array.nbytes <= max(left, _SMALL) or name in keep:
                self.held[slots[name]] = tensor
                left -= 0 if mapped else array.nbytes
            else:
                self._loaders[slots[name]] = loader(name)

    def __getitem__(self, slot: int) -> Tensor:
        held = self.held.get(slot)
        return self._loaders[slot]() if held is None else held

    def __contains__(self, slot: object) -> bool:
        return slot in self.held or slot in self._loaders

    def __iter__(self) -> Iterator[int]:
        yield from self.held
        yield from self._loaders

    def __len__(self) -> int:
        return len(self.held) + len(self._loaders)

    def not_held(self, slot: int) -> bool:
        """Return whether ``slot`` is a constant that each use loads."""
        return slot in self._loaders


def _is_mapped(array: NDArray[np.generic], tensor: Tensor) -> bool:
    """Whether ``tensor`` is ``array`` in a file's map: then it needs no memory of its own."""
    if tensor.data_ptr() != array.__array_interface__["data"][0]:
        return False
    owner: object = array
    while isinstance(owner, np.ndarray):
        if (
            getattr(owner, "_mmap", None) is not None
        ):  # what is computed from a map is one by type alone
            return True
        owner = owner.base
    return False


def fill_in(kernel: Kernel, inputs: Sequence[int], constants: ConstantTensors) -> Kernel:
    """Return ``kernel`` that loads for itself what it is not given of the constants that are not held."""
    places = [(i, slot) for i, slot in enumerate(inputs) if constants.not_held(slot)]
    if not places:
        return kernel

    def filled(*tensors: Tensor | None, **more: object) -> object:
        given = list(tensors)
        for i, slot in places:
            if given[i] is None:
                given[i] = constants[slot]
        return kernel(*given, **more)

    return filled
