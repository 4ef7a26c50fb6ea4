"""Expected hypervolume improvement where the loss is uncertain and the other objective is known."""

import numpy as np
from scipy.special import ndtr

from mpsearch.problem.pareto import non_dominated
from mpsearch.stats.estimates import Floats


def expected_improvement(
    front: Floats, reference: Floats, known: Floats, mean: Floats, deviation: Floats
) -> Floats:
    """Return by how much measuring each candidate is expected to raise the hypervolume, [P].

    At height y of the loss a point adds the stretch from its own known value to that of the first front
    point that is no higher: E = integral of that stretch times P(loss <= y), piecewise in closed form
    (Emmerich et al. 2011, in two objectives of which one is certain).

    Args:
        front: [F, 2] known objective and loss of what was measured.
        reference: [2].
        known: [P] the candidates' other objective, which the tables say exactly.
        mean: [P] of their losses.
        deviation: [P] of their losses.
    """
    inside = front[(front < reference).all(axis=1)]
    inside = inside[non_dominated(inside)] if len(inside) else inside
    inside = inside[np.argsort(inside[:, 0])]  # losses descend
    heights = np.concatenate([[reference[1]], inside[:, 1]])  # tops of bands, descending
    bottoms = np.concatenate([inside[:, 1], [-np.inf]])
    ends = np.concatenate([inside[:, 0], [reference[0]]])  # at this height the front begins here
    spread = np.maximum(deviation, 1e-12 * (np.abs(mean) + 1e-300))
    total = np.zeros(len(known))
    for top, bottom, end in zip(heights, bottoms, ends, strict=True):
        stretch = np.maximum(end - known, 0.0)
        total += stretch * (_partial(top, mean, spread) - _partial(bottom, mean, spread))
    return total


def _partial(y: float, mean: Floats, deviation: Floats) -> Floats:
    """Return the integral of P(loss <= t) for t up to ``y``."""
    if np.isneginf(y):
        return np.zeros(len(mean))
    t = (y - mean) / deviation
    density = np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi)
    value: Floats = deviation * (t * ndtr(t) + density)
    return value
