"""Where the loss of an assignment comes from: outputs, groups of their channels, slices of the data."""

from collections.abc import Mapping

import numpy as np

from mpsearch.losses.losses import part_losses
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Estimate, Ints, estimate_mean

_MANY = 10.0  # times the mean of the others: what a reader must know


def losses_by_output(simulator: Simulator, assignment: Ints) -> dict[str, Estimate]:
    """Return the mean divergence from the fp32 model of each part of the outputs, in one run over the data.

    A part is an output, or a group of its channels where these are of several magnitudes. Empty where
    there is only one, or where the loss is no divergence and reads one output or the user's function.
    """
    if simulator.loss_kind not in ("kl", "mse"):
        return {}
    first = simulator.targets[0]
    parts = sum(
        scale.n_groups if head.is_number else 1
        for head, scale in zip(simulator.heads, first.scales, strict=True)
    )
    if parts < 2:
        return {}
    runs = [
        {
            name: losses.cpu().numpy()
            for name, losses in part_losses(
                simulator.heads, simulator.head_values(assignment, run), target
            ).items()
        }
        for run, target in enumerate(simulator.targets)
    ]
    return {name: estimate_mean(np.concatenate([run[name] for run in runs])) for name in runs[0]}


def losses_by_slice(simulator: Simulator, assignment: Ints) -> dict[str, Estimate]:
    """Return the mean loss of each slice of the data; empty where they are not in slices."""
    slices = simulator.batches.slice
    if slices is None:
        return {}
    losses = simulator.losses(assignment)
    return {str(name): estimate_mean(losses[slices == name]) for name in np.unique(slices)}


def find_lopsided(losses: Mapping[str, Estimate]) -> dict[str, float]:
    """Return the parts whose loss, beyond its error, is ten times the mean of the others, and how many times.

    A part without others of positive mean loss is infinitely many times theirs.
    """
    found = {}
    for name, loss in losses.items():
        others = [other.mean for key, other in losses.items() if key != name]
        mean = max(float(np.mean(others)), 0.0) if others else np.inf
        if loss.mean > 2 * loss.stderr and loss.mean >= _MANY * mean:
            found[name] = loss.mean / mean if mean else float("inf")
    return found
