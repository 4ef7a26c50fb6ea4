"""How much of a plan's loss recovery leaves: one factor a scheme, learned from plans that were recovered."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import lsq_linear

from mpsearch.stats.estimates import Floats

DENSE, SPARSE = 0.65, 0.28
"""Medians of dense and of sparse schemes on an OCR classifier: what is believed before any plan was recovered."""

_LEAST, _MOST = 0.01, 1.0
_BELIEF = 0.5  # weight of what is believed, beside plans that weigh 1 each


def fit_factors(parts: Floats, losses: Sequence[float], priors: Sequence[float]) -> Floats:
    """Return [S] factors that make ``parts`` add up to ``losses``, each error relative to its plan's prediction.

    Args:
        parts: [P, S] what each scheme's groups are predicted to lose in a plan, without recovery.
        losses: [P] what the plan lost, recovered.
        priors: [S] what is believed of each scheme.

    Returns:
        Between .01 and 1: recovery that makes a layer worse is not kept.
    """
    parts = np.maximum(np.asarray(parts, np.float64), 0.0)
    believed = np.asarray(priors, np.float64)
    size = np.maximum(parts @ believed, 1e-12)
    matrix = np.concatenate([parts / size[:, None], _BELIEF * np.eye(len(believed))])
    wanted = np.concatenate([np.maximum(losses, 0.0) / size, _BELIEF * believed])
    found: Floats = lsq_linear(matrix, wanted, bounds=(_LEAST, _MOST)).x
    return found


def scheme_parts(values: Floats, assignments: Sequence[Sequence[int]]) -> Floats:
    """Return [P, S]: what the groups of each scheme lose in each of ``assignments``, by the table [G, S]."""
    G, S = values.shape
    found = np.zeros((len(assignments), S))
    for row, assignment in zip(found, assignments, strict=True):
        np.add.at(row, np.asarray(assignment), values[np.arange(G), np.asarray(assignment)])
    return found
