"""What metrics share: which entries to score, paired differences, the empty table."""

from collections.abc import Iterator

import numpy as np

from mpsearch.execute.simulator import Simulator
from mpsearch.tables import Estimate, Floats, Ints


def base_assignment(simulator: Simulator) -> Ints:
    """Return the [G] assignment of the base format to every group."""
    base = simulator.space.index(simulator.space.base)
    return np.full(len(simulator.groups), base, np.int64)


def single_changes(simulator: Simulator) -> list[tuple[int, int]]:
    """Return (group, scheme) of every allowed entry but the base's, scheme by scheme."""
    base = simulator.space.index(simulator.space.base)
    n_groups, n_schemes = simulator.allowed.shape
    return [
        (g, s)
        for s in range(n_schemes)
        for g in range(n_groups)
        if s != base and simulator.allowed[g, s]
    ]


def change_one(assignment: Ints, group: int, scheme: int) -> Ints:
    """Return ``assignment`` with one group at another scheme."""
    changed = assignment.copy()
    changed[group] = scheme
    return changed


def mean_estimate(samples: Floats) -> Estimate:
    """Return the mean of ``samples`` [n] and its standard error; one sample is as uncertain as large."""
    n = len(samples)
    mean = float(samples.mean())
    if n < 2:
        return Estimate(mean, abs(mean))
    return Estimate(mean, float(samples.std(ddof=1) / n**0.5))


def group_layers(simulator: Simulator) -> Iterator[tuple[int, int]]:
    """Yield (group, layer) of every layer."""
    for g, group in enumerate(simulator.graph.groups):
        for layer in group.layers:
            yield g, layer
