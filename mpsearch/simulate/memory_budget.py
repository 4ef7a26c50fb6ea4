"""How the memory that a simulation may take is shared between what it keeps."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from mpsearch.graph.model import ModelGraph
from mpsearch.program.memory_of_machine import (
    anonymous_memory,
    default_memory,
    release_freed_blocks,
)
from mpsearch.program.program import Program
from mpsearch.program.schedule import Schedule

_HELD_SHARE = 0.5  # for constants that are computed when the model is read
_WEIGHT_SHARE = 1 / 3  # of what is left beside a run's own needs; kept activations take the others
_GRAM_SHARE = 1 / 4  # where weights are recovered
_ACTIVATIONS, _COPIES = (
    2,
    3,
)  # what a kernel needs beside its inputs; a weight, quantised and packed
_FREED_SHARE, _LEAST_FREED, _MOST_FREED = 1 / 8, 2**20, 2**28


class MemoryWarning(UserWarning):
    """A simulation is likely to need more memory than it was given."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Bytes that may be kept from run to run.

    Attributes:
        weights: For simulated weights.
        values: For activations of the assignments that others start from, of all batches together.
        grams: For the Gram matrices that recover pruned weights.
    """

    weights: int
    values: int
    grams: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Anonymous memory: what is mapped from files does not count.

    Attributes:
        max_memory: Bytes that the process may hold, None where nobody said: then it is the machine's free memory.
        total: Bytes that were left when the budget was made.
    """

    max_memory: int | None
    total: int

    @property
    def held(self) -> int:
        """Bytes of constants beyond which they are made anew for each use."""
        return int(self.total * _HELD_SHARE)

    @property
    def freed(self) -> int:
        """Bytes of the largest freed block that is worth keeping for the next activation."""
        return int(min(max(self.total * _FREED_SHARE, _LEAST_FREED), _MOST_FREED))

    def share(
        self,
        graph: ModelGraph,
        program: Program,
        schedule: Schedule,
        slot_bytes: Mapping[int, int],
        *,
        batch_size: int,
        recovers: bool,
    ) -> Shares:
        """Return what may be kept beside the constants, once these are there.

        A run's own needs come first: the activations that are alive at once, and copies of one weight.
        A user's limit that does not reach for these gives a warning that names the batch size.

        Args:
            graph: The model.
            program: The model compiled.
            schedule: A whole run.
            slot_bytes: Sizes of its values.
            batch_size: Samples that they are for.
            recovers: Whether any scheme recovers pruned weights.
        """
        weights = [
            4 * gemm.parameters
            for layer in graph.layers
            for gemm in layer.gemms
            if gemm.has_weight and gemm.right.value in program.slots
        ]
        needed = _ACTIVATIONS * live_bytes(schedule, slot_bytes) + _COPIES * max(weights, default=0)
        release_freed_blocks()
        left = free_memory(self.max_memory)
        if self.max_memory is not None and self.total > 0 and left < needed:
            warnings.warn(
                f"a run on {batch_size} samples needs about {needed / 1e6:.0f} MB, but "
                f"{left / 1e6:.0f} MB are left of the memory given: raise it, or make batches smaller",
                MemoryWarning,
                stacklevel=3,
            )
        rest = max(0, left - needed)
        grams = int(rest * _GRAM_SHARE) if recovers else 0
        kept = int((rest - grams) * _WEIGHT_SHARE)
        return Shares(kept, rest - grams - kept, grams)


def make_budget(max_memory: int | None) -> Budget:
    """Return the budget of ``max_memory`` bytes for the whole process; None asks the machine."""
    return Budget(max_memory, free_memory(max_memory))


def free_memory(max_memory: int | None) -> int:
    """Return what is left of ``max_memory`` bytes beside what the process holds now."""
    if max_memory is None:
        return default_memory()
    return max(0, max_memory - anonymous_memory())


def live_bytes(schedule: Schedule, slot_bytes: Mapping[int, int]) -> int:
    """Return the bytes of the values that are alive at once at most while ``schedule`` runs."""
    alive = peak = sum(slot_bytes.get(slot, 0) for slot in schedule.loads)
    for step, frees in zip(schedule.steps, schedule.frees, strict=True):
        alive += sum(slot_bytes.get(slot, 0) for slot in step.outputs)
        peak = max(peak, alive)
        alive -= sum(slot_bytes.get(slot, 0) for slot in frees)
    return peak
