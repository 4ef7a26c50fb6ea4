"""Weight-only control: the loss with one group's weights lowered, all activations left alone."""

from dataclasses import replace

import numpy as np

from mpsearch.problem.tables import Costs, Progress, Table
from mpsearch.registry import find
from mpsearch.simulate.simulator import Simulator


def score(
    simulator: Simulator,
    *,
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    seconds: float | None = None,
    tolerance: float | None = None,
) -> Table:
    """Measure each group with its weights in each scheme and its activations in the base format.

    What this misses of ``perturbation`` is what quantised activations do; products of two activations count nothing.

    Args:
        simulator: The model and its data.
        costs: Not needed.
        budget: Evaluations that may be spent; fewer than there are entries is refused.
        seed: Nothing is drawn.
        progress: Told the entries that are done.
        seconds: Time after which what was measured is returned.
        tolerance: Expected share of discordant pairs of entries at which to stop.

    Raises:
        InfeasibleError: The budget does not reach all entries.
    """
    control = control_simulator(simulator)
    measure = find("metrics", "perturbation")
    table: Table = measure(
        control, costs=costs, budget=budget, progress=progress, seconds=seconds, tolerance=tolerance
    )
    keep = simulator.allowed & table.allowed
    return replace(
        table,
        metric="weight_only",
        values=np.where(keep, table.values, 0.0),
        stderr=np.where(keep, table.stderr, 0.0),
        allowed=keep,
        reasons=dict(table.reasons) | dict(simulator.reasons),
    )


def control_simulator(simulator: Simulator) -> Simulator:
    """Return a simulator of the same model whose schemes leave activations in the base format.

    Any metric scored on it is that metric's weight-only control.
    """
    space = simulator.space
    base = space.schemes[space.index(space.base)]
    schemes = tuple(replace(scheme, activation=base.activation) for scheme in space.schemes)
    return simulator.in_space(replace(space, schemes=schemes))
