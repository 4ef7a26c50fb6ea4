"""Perturbation: the loss measured with one group lowered and all others in the base format.

The ground truth of the isolated effect, at one evaluation an entry; sums of it miss what layers do
to each other.
"""

import numpy as np

from mpsearch.errors import InfeasibleError
from mpsearch.execute.simulator import Simulator
from mpsearch.sensitivity.single import (
    base_assignment,
    change_one,
    mean_estimate,
    single_changes,
)
from mpsearch.tables import Costs, Progress, Table


def score(
    simulator: Simulator,
    *,
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Measure each group at each scheme, paired per sample with the model all in the base format.

    The value is loss(one group lowered) − loss(all base) on the same samples; its standard error is
    that of the paired differences. The base column is 0 by definition. Nothing is clipped: with labels an entry may be negative.

    Args:
        simulator: The model; it keeps what it has measured, so that an interrupted scoring goes on.
        costs: Not needed.
        budget: Evaluations that may be spent; fewer than there are entries is refused.
        seed: Nothing is drawn.
        progress: Told the entries that are done.

    Raises:
        InfeasibleError: The budget does not reach all entries.
    """
    base = base_assignment(simulator)
    entries = single_changes(simulator)
    needed = len(entries) + 1
    if budget is not None and budget < needed:
        raise InfeasibleError(
            f"perturbation needs {needed} evaluations, one an entry; the budget is {budget}: "
            "raise it, search fewer schemes, or take a metric that needs fewer"
        )
    values = np.zeros(simulator.allowed.shape)
    stderr = np.zeros_like(values)
    reference = simulator.losses(base)
    for done, (g, s) in enumerate(entries):
        if progress is not None:
            progress(done, len(entries), f"{simulator.groups[g]} in {simulator.space.names[s]}")
        difference = simulator.losses(change_one(base, g, s)) - reference
        values[g, s], stderr[g, s] = mean_estimate(difference)
    if progress is not None:
        progress(len(entries), len(entries), "all entries measured")
    return Table(
        metric="perturbation",
        unit=simulator.unit,
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=stderr,
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        cost_plans=float(needed),
    )
