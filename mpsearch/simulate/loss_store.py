"""Where measured losses are kept: what a simulator is given, so that it measures nothing twice."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mpsearch.stats.estimates import Floats

Assignment = tuple[int, ...]


class Ahead(Protocol):
    """Workers that measure losses before they are asked for."""

    def measure(
        self,
        wanted: Sequence[tuple[Assignment, int]],
        kept: Callable[[Assignment, int, Floats], None],
    ) -> Mapping[tuple[Assignment, int], str]:
        """Measure (assignment, batch) pairs and hand each to ``kept`` as it comes, in any order.

        Returns:
            What no worker survived, to why. What has no loss is in neither.
        """


class LossStore(Protocol):
    """Losses of one model on some data, by assignment."""

    def get(self, assignment: Assignment, batch: int | None) -> Floats | None:
        """Return the losses of ``assignment`` [G] on a batch, or [n] on all (None); None if unknown."""

    def put(self, assignment: Assignment, batch: int | None, losses: Floats) -> Floats:
        """Keep and return what :meth:`get` is to return; a store need not keep losses on all the data."""

    def announce(self, assignments: Sequence[Assignment], batches: Sequence[int]) -> None:
        """Hear which losses will be asked for next: a store that has workers sees that they are measured."""

    def branch(self, name: str) -> "LossStore":
        """Return a store of the same kind for the same data under other schemes or by another loss.

        ``name`` says which; stores of different names never meet.
        """


class MemoryLosses:
    """Losses by batch, as long as this object lives."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._known: dict[tuple[Assignment, int], Floats] = {}

    def get(self, assignment: Assignment, batch: int | None) -> Floats | None:
        """Return the losses on a batch, None if unknown; those on all the data are put together anew."""
        return None if batch is None else self._known.get((assignment, batch))

    def put(self, assignment: Assignment, batch: int | None, losses: Floats) -> Floats:
        """Keep the losses on a batch."""
        if batch is not None:
            self._known[assignment, batch] = losses
        return losses

    def announce(self, assignments: Sequence[Assignment], batches: Sequence[int]) -> None:
        """Do nothing: all is measured when it is asked for."""

    def branch(self, name: str) -> "MemoryLosses":
        """Return an empty store."""
        del name
        return MemoryLosses()
