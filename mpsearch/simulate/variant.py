"""Variants of a simulator: the same model and data, measured with other schemes or by another loss."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

from mpsearch.data.batches import Batches
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace


@runtime_checkable
class Varying(Protocol):
    """Makes variants of itself: a simulator that keeps what it measures makes such that do."""

    def variant(self, space: SearchSpace, loss: str | None) -> Simulator:
        """Return a simulator in ``space`` by ``loss``, calibrated to the same samples."""


def make_variant(
    simulator: Simulator, *, space: SearchSpace | None = None, loss: str | None = None
) -> Simulator:
    """Return a simulator of the same model and data.

    Args:
        simulator: What it is a variant of.
        space: Its space; None takes that of ``simulator``.
        loss: Its loss; None takes the one that was asked for.
    """
    space = replace(space or simulator.space, ties=())  # the graph's groups are tied already
    loss = loss or simulator.loss_given
    if isinstance(simulator, Varying):
        return simulator.variant(space, loss)
    return simulate_like(simulator, simulator.batches, space, loss)


def simulate_like(
    simulator: Simulator, batches: Batches, space: SearchSpace, loss: str | None
) -> Simulator:
    """Return a simulator of the same model in ``space`` by ``loss``, calibrated to ``batches``."""
    return Simulator(
        simulator.graph,
        space,
        batches,
        loss=loss,
        seed=simulator.seed,
        device=str(simulator.device),
        max_memory=simulator.max_memory,
    )
