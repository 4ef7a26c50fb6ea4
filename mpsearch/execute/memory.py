"""How the memory that a simulation may take is shared between what it keeps."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from mpsearch.execute.machine import anonymous_memory, default_memory
from mpsearch.execute.program import Program, Schedule
from mpsearch.graph.model import ModelGraph

_HELD_SHARE = 0.5  # for constants that are computed when the model is read
_WEIGHT_SHARE = 1 / 3  # of what is left beside a run's own needs; kept activations take the others
_ACTIVATIONS, _COPIES = (
    2,
    3,
)  # what a kernel needs beside its inputs; a weight, quantised and packed
_FREED_SHARE, _LEAST_FREED, _MOST_FREED = 1 / 8, 2**20, 2**28


class MemoryWarning(UserWarning):
    """A simulation is likely to need more memory than it was given."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of anonymous memory: what is mapped from files does not count.

    Attributes:
        total: For everything.
        is_given: Whether a user said so, rather than the machine's free memory.
    """

    total: int
    is_given: bool

    @property
    def held(self) -> int:
        """For constants that are made anew for each use beyond that."""
        return int(self.total * _HELD_SHARE)

    @property
    def freed(self) -> int:
        """Of the largest freed block that is worth keeping for the next activation."""
        return int(min(max(self.total * _FREED_SHARE, _LEAST_FREED), _MOST_FREED))

    def share(
        self,
        graph: ModelGraph,
        program: Program,
        schedule: Schedule,
        slot_bytes: Mapping[int, int],
        batch_size: int,
    ) -> tuple[int, int]:
        """Return the bytes for simulated weights and for kept activations, of all batches together.

        A run's own needs come first: the activations that are alive at once, and copies of one weight.
        A user's limit that does not reach for these gives a warning that names the batch size.
        """
        weights = [
            4 * gemm.parameters
            for layer in graph.layers
            for gemm in layer.gemms
            if gemm.has_weight and gemm.right.value in program.slots
        ]
        needed = _ACTIVATIONS * live_bytes(schedule, slot_bytes) + _COPIES * max(weights, default=0)
        if self.is_given and 0 < self.total < needed:
            warnings.warn(
                f"a run on {batch_size} samples needs about {needed / 1e6:.0f} MB, but "
                f"{self.total / 1e6:.0f} MB are left of the memory given: raise it, or make batches smaller",
                MemoryWarning,
                stacklevel=3,
            )
        rest = max(0, self.total - needed)
        share = int(rest * _WEIGHT_SHARE)
        return share, rest - share


def make_budget(max_memory: int | None) -> Budget:
    """Return what is left of ``max_memory`` bytes beside what the process holds; None asks the machine."""
    if max_memory is None:
        return Budget(default_memory(), False)
    return Budget(max(0, max_memory - anonymous_memory()), True)


def live_bytes(schedule: Schedule, slot_bytes: Mapping[int, int]) -> int:
    """Return the bytes of the values that are alive at once at most while ``schedule`` runs."""
    alive = peak = sum(slot_bytes.get(slot, 0) for slot in schedule.loads)
    for step, frees in zip(schedule.steps, schedule.frees, strict=True):
        alive += sum(slot_bytes.get(slot, 0) for slot in step.outputs)
        peak = max(peak, alive)
        alive -= sum(slot_bytes.get(slot, 0) for slot in frees)
    return peak
