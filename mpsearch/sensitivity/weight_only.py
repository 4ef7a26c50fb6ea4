"""Weight-only control: the loss with one group's weights lowered, all activations left alone."""

from dataclasses import replace

import numpy as np

from mpsearch.problem.tables import Table
from mpsearch.registry import find
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.simulator import Simulator


def score(task: MetricTask, *, tolerance: float | None = None) -> Table:
    """Measure each group with its weights in each scheme and its activations in the base format.

    What this misses of ``perturbation`` is what quantised activations do; products of two activations count nothing.

    Args:
        task: What to score; a budget of fewer evaluations than there are entries is refused. Nothing is
            drawn.
        tolerance: Expected share of discordant pairs of entries at which to stop.

    Raises:
        InfeasibleError: The budget does not reach all entries.
    """
    simulator = task.simulator
    measure = find("metrics", "perturbation").score
    table = measure(replace(task, simulator=control_simulator(simulator)), tolerance=tolerance)
    keep = simulator.allowed & table.allowed
    return replace(
        table,
        metric="weight_only",
        values=np.where(keep, table.values, 0.0),
        stderr=np.where(keep, table.stderr, 0.0),
        allowed=keep,
        reasons=dict(table.reasons) | dict(simulator.reasons),
    )


METRIC = Metric(score, measures=True, stops_early=True)


def control_simulator(simulator: Simulator) -> Simulator:
    """Return a simulator of the same model whose schemes leave activations in the base format.

    Any metric scored on it is that metric's weight-only control.
    """
    space = simulator.space
    base = space.schemes[space.index(space.base)]
    schemes = tuple(replace(scheme, activation=base.activation) for scheme in space.schemes)
    return simulator.in_space(replace(space, schemes=schemes))
