"""A simulator's losses, kept in a run's store by batch, and measured ahead by workers where there are any."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mpsearch.errors import LostError
from mpsearch.simulate.loss_store import Ahead, Assignment
from mpsearch.stats.estimates import Floats


class LossTable(Protocol):
    """Losses by context and assignment."""

    def get(self, context: str, assignment: Sequence[int]) -> Floats | None:
        """Return the [n] losses of ``assignment`` [G], or None."""

    def put(self, context: str, assignment: Sequence[int], losses: Floats) -> Floats:
        """Keep the [n] ``losses`` of ``assignment`` [G], and return what :meth:`get` will."""


@dataclass(frozen=True, slots=True)
class StoredLosses:
    """A simulator's losses, read from a store where they are there, and kept where not.

    They are kept by batch, so that a run on more data of which the first batches are the same measures the new
    ones only, and as a whole under the run's own context.

    Attributes:
        store: Keeps them.
        context: What losses on all the data are kept under.
        batches: [n_batches] What losses on each batch are kept under.
        ahead: Workers that measure what was announced; None: nobody does.
        lost: (assignment, batch) that no worker survived, to why.
    """

    store: LossTable
    context: str
    batches: tuple[str, ...]
    ahead: Ahead | None = None
    lost: dict[tuple[Assignment, int], str] = field(default_factory=dict)

    def get(self, assignment: Assignment, batch: int | None) -> Floats | None:
        """Return the losses of ``assignment`` [G] on a batch, or [n] on all (None); None if unknown.

        Raises:
            LostError: Workers died of measuring it.
        """
        if batch is not None and (assignment, batch) in self.lost:
            raise LostError(self.lost[assignment, batch])
        return self.store.get(self._context(batch), assignment)

    def put(self, assignment: Assignment, batch: int | None, losses: Floats) -> Floats:
        """Keep the losses of ``assignment`` [G] on a batch, or all; what is there already stays."""
        return self.store.put(self._context(batch), assignment, losses)

    def branch(self, name: str) -> "StoredLosses":
        """Return a place in the same store for other schemes or another loss."""
        batches = tuple(f"{context} {name}" for context in self.batches)
        return StoredLosses(self.store, f"{self.context} {name}", batches)

    def announce(self, assignments: Sequence[Assignment], batches: Sequence[int]) -> None:
        """Have workers measure what is missing of ``assignments`` on ``batches``, and wait for it.

        What cannot be measured is left to whoever asks for it.
        """
        if self.ahead is None:
            return
        whole = len(batches) == len(self.batches)
        wanted: dict[tuple[Assignment, int], None] = {}
        for key in dict.fromkeys(assignments):
            if whole and self.get(key, None) is not None:
                continue
            missing = [b for b in batches if (key, b) not in self.lost]
            wanted |= {(key, b): None for b in missing if self.get(key, b) is None}
        if not wanted:
            return
        left = {key: sum(k == key for k, _ in wanted) for key in {k for k, _ in wanted}}

        def kept(key: Assignment, batch: int, losses: Floats) -> None:
            self.put(key, batch, losses)
            left[key] -= 1

        try:
            self.lost.update(self.ahead.measure(list(wanted), kept))
        except KeyboardInterrupt:  # what is left of the run reads losses on all the data
            for key in left if whole else ():
                if not left[key]:
                    self._join(key)
            raise

    def _join(self, key: Assignment) -> None:
        """Keep the losses on all the data, once those on each batch are there."""
        parts = [self.store.get(context, key) for context in self.batches]
        self.put(key, None, np.concatenate([part for part in parts if part is not None]))

    def _context(self, batch: int | None) -> str:
        return self.context if batch is None else self.batches[batch]
