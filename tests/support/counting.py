"""A store of losses that counts what was measured."""

from mpsearch.simulate.loss_store import Assignment, MemoryLosses
from mpsearch.stats.estimates import Floats


class CountingLosses(MemoryLosses):
    """Keeps losses in memory; ``batches`` counts those that were measured."""

    __slots__ = ("batches",)

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def put(self, assignment: Assignment, batch: int | None, losses: Floats) -> Floats:
        self.batches += batch is not None
        return super().put(assignment, batch, losses)
