"""Perturbation: the loss measured with one group lowered and all others in the base format.

The ground truth of the isolated effect, at one evaluation an entry; sums of it miss what layers do
to each other.
"""

import numpy as np

from mpsearch.errors import InfeasibleError
from mpsearch.problem.tables import Table
from mpsearch.sensitivity.shared.effort import suffix_shares
from mpsearch.sensitivity.shared.entries import single_changes
from mpsearch.sensitivity.shared.sampling import measure_entries
from mpsearch.sensitivity.task import Metric, MetricTask


def score(task: MetricTask, *, tolerance: float | None = None) -> Table:
    """Measure each group at each scheme, paired per sample with the model all in the base format.

    The value is loss(one group lowered) − loss(all base) on the same samples; its standard error is
    that of the paired differences. The base column is 0 by definition. Nothing is clipped: with labels an entry may be negative.
    An entry whose outputs are NaN or Inf is not allowed, and so is one that the time did not reach.
    ``details`` holds the ``samples`` that each entry saw.

    Args:
        task: What to score. The simulator keeps what it has measured, so that an interrupted scoring goes
            on. A budget of fewer evaluations than there are entries is refused; nothing is drawn.
        tolerance: Expected share of discordant pairs of entries at which to stop
            (:func:`mpsearch.sensitivity.shared.sampling.misordered_share`); None takes all data.

    Raises:
        InfeasibleError: The budget does not reach all entries.
    """
    simulator, budget = task.simulator, task.budget
    entries = single_changes(simulator)
    needed = len(entries) + 1
    if budget is not None and budget < needed:
        raise InfeasibleError(
            f"perturbation needs {needed} evaluations, one an entry; the budget is {budget}: "
            "raise it, search fewer schemes, or take a metric that needs fewer"
        )
    found = measure_entries(
        simulator, entries, deadline=task.deadline, tolerance=tolerance, progress=task.progress
    )
    shape = simulator.allowed.shape
    values, stderr, samples = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    allowed, reasons = simulator.allowed.copy(), dict(simulator.reasons)
    for g, s in entries:
        if (g, s) in found.changes and (g, s) not in found.refused:
            values[g, s], stderr[g, s] = simulator.estimate(found.changes[g, s])
            samples[g, s] = len(found.changes[g, s])
            continue
        allowed[g, s] = False
        why = found.refused.get((g, s), "not measured: the time budget ended before")
        reasons[simulator.groups[g], simulator.space.names[s]] = why
    return Table(
        metric="perturbation",
        unit=simulator.unit,
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=stderr,
        allowed=allowed,
        reasons=reasons,
        details={"samples": samples},
        cost_plans=1.0
        + float(suffix_shares(simulator.graph) @ samples.sum(axis=1)) / simulator.n_samples,
        notes=found.notes,
    )


METRIC = Metric(score, measures=True, stops_early=True)
