"""A mean with its standard error, and how it is estimated from samples."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Estimate(NamedTuple):
    """A mean and its standard error, in one unit."""

    mean: float
    stderr: float = 0.0


_NORMAL_QUANTILE = 1.959964  # of 97.5 %
_SKEWNESS_WEIGHT = 12.0  # chosen on losses of real models: see docs/sensitivity.md


def estimate_mean(samples: Floats) -> Estimate:
    """Return the mean of [n] independent samples and its standard error.

    The error is such that the true mean lies within 1.96 of them in 95 of 100 cases also where
    samples are few, by Student's t, and skewed, as divergences are: there large losses are rare and
    a sample without them is small in mean and in spread at once. The usual s/√n is multiplied by
    t(n − 1)/1.96 · √(1 + 12 γ²/n), γ² the squared skewness beyond that of a normal sample of this size: 1
    for many samples. The error of one sample is not known; it is said to be as large as the sample.
    """
    n = len(samples)
    mean = float(samples.mean())
    if n < 2:
        return Estimate(mean, abs(mean))
    centred = samples - mean
    variance = float(np.square(centred).mean())
    if variance <= (1e-14 * abs(mean)) ** 2:
        return Estimate(mean, 0.0)
    skewness = float((centred**3).mean()) / variance**1.5
    by_chance = 6 * (n - 2) / ((n + 1) * (n + 3))  # variance of a normal sample's skewness
    excess = max(skewness**2 - by_chance, 0.0)
    usual = (variance / (n - 1)) ** 0.5 * _t_quantile(n - 1) / _NORMAL_QUANTILE
    return Estimate(mean, usual * (1 + _SKEWNESS_WEIGHT * excess / n) ** 0.5)


def _t_quantile(dof: int) -> float:
    """97.5 % quantile of Student's t."""
    from scipy.special import (
        stdtrit,
    )  # when called: estimates are values that need no scipy to be read

    return float(stdtrit(dof, 0.975))
