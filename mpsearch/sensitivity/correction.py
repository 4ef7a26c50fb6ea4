"""Corrections of a table by measurements: a law for the entries, a posterior for whole plans."""

import numpy as np
from scipy import stats

from mpsearch.tables import Bools, Floats, Ints, Table

_OFFSET_SPREAD = 10.0  # of the law's offset, in logarithms: the prior may have another unit
_SCHEME_SPREAD = 0.2  # of a scheme's own offset
_SLOPE_SPREAD = 0.1
_LEAST_SPREAD = 0.05  # no law is better than this
_CONTEXT_SPREAD = 0.3  # an entry's effect in a plan about its effect alone, relative
_PLAN_SPREAD = 1.0  # a plan's loss about the sum of its entries, relative
_LEAST_SHARE = 0.1  # of its value that plans leave an entry


def correct_entries(
    prior: Table, measured: Floats, errors: Floats, known: Bools, entries: Bools
) -> tuple[Floats, Floats]:
    """Return [G, S] values and standard errors from a prior and measurements of some entries.

    In logarithms: measured = offset + offset(scheme) + slope · prior, fitted by ridge regression towards
    0, 0 and 1. The spread σ of its leave-one-out residuals is the error of the entries that were not
    measured: 95 % of log-normal laws lie within 1.96 standard errors. A measured entry keeps its measurement and that one's error: samples that all plans share do
    not disorder them.

    Args:
        prior: Table of the cheap metric.
        measured: [G, S] measured values where ``known``.
        errors: [G, S] their standard errors.
        known: [G, S] what was measured.
        entries: [G, S] what is to be scored; 0 elsewhere.
    """
    least = 1e-3 * abs(float(np.median(measured[known]))) if known.any() else 0.0
    floor = 1e-9 * float(
        prior.values[entries].max(initial=1e-300)
    )  # below it an entry does nothing
    x = np.log(np.maximum(prior.values, floor))
    usable = known & (measured > least) & (prior.values > floor)
    law, sigma = _fit_law(x, measured, usable)
    quantile = float(stats.t.ppf(0.95, max(int(usable.sum()) - 1, 1)))
    spread = float(np.expm1(min(quantile * sigma, 3.0))) / 1.96
    guess = np.exp(law)
    guess[prior.values <= floor] = 0.0
    own = prior.stderr * guess / np.maximum(prior.values, 1e-300)
    values = np.where(known, measured, np.where(entries, guess, 0.0))
    stderr = np.where(known, errors, np.where(entries, np.hypot(guess * spread, own), 0.0))
    return values, stderr


def correct_by_plans(values: Floats, plans: Ints, losses: Floats) -> Floats:
    """Return [G, S] values that agree better with measured losses of plans: a Gaussian posterior.

    An entry's effect in a plan is normal about its value, with a relative spread of .3; a
    plan's loss about the sum of its entries with a relative spread of 1. So single plans move nothing,
    and hundreds do. Errors that entries and plans share because the samples are the same do not
    matter here. No entry falls below a tenth of its value.

    Args:
        values: [G, S] values to correct.
        plans: [P, G] measured plans.
        losses: [P] their losses.
    """
    if len(plans) == 0:
        return values
    n_groups, n_schemes = values.shape
    taken = plans + np.arange(n_groups) * n_schemes
    design = np.zeros((len(plans), values.size))
    np.put_along_axis(design, taken, 1.0, axis=1)
    prior = values.ravel()
    variance = np.square(_CONTEXT_SPREAD * prior)
    noise = _PLAN_SPREAD * np.maximum(losses, 0.1 * float(np.median(losses)))
    covariance = (design * variance) @ design.T + np.diag(np.square(noise) + 1e-300)
    pull = np.linalg.solve(covariance, losses - design @ prior)
    moved = prior + variance * (design.T @ pull)
    least = np.where(prior > 0, _LEAST_SHARE * prior, -np.inf)
    return np.asarray(np.maximum(moved, least).reshape(values.shape), np.float64)


def _fit_law(x: Floats, measured: Floats, usable: Bools) -> tuple[Floats, float]:
    """Logarithms that the law gives every entry from those of the prior, and their held-out spread."""
    n_schemes = x.shape[1]
    groups, schemes = np.nonzero(usable)
    if len(groups) < 2:
        return x, 1.0
    shift = np.log(measured[groups, schemes]) - x[groups, schemes]
    centre = float(x[groups, schemes].mean())

    def design(g: Ints, s: Ints) -> Floats:
        offsets = np.eye(n_schemes)[s] * _SCHEME_SPREAD
        both = np.full((len(s), 1), _OFFSET_SPREAD)
        return np.hstack([offsets, both, (x[g, s] - centre)[:, None] * _SLOPE_SPREAD])

    rows = design(groups, schemes)
    noise = max(float(shift.std()), _LEAST_SPREAD)
    for _ in range(3):  # the ridge needs the spread, and the spread the ridge
        inverse = np.linalg.inv(rows.T @ rows + noise**2 * np.eye(rows.shape[1]))
        hat = np.einsum("ij,jk,ik->i", rows, inverse, rows)
        fitted = rows @ inverse @ rows.T @ shift
        held_out = (shift - fitted) / np.maximum(1 - hat, 0.05)
        noise = max(float(np.sqrt(np.square(held_out).mean())), _LEAST_SPREAD)
    inverse = np.linalg.inv(rows.T @ rows + noise**2 * np.eye(rows.shape[1]))
    weights = inverse @ rows.T @ shift
    every_g, every_s = (index.ravel() for index in np.indices(x.shape))
    correction = (design(every_g, every_s) @ weights).reshape(x.shape)
    return x + correction, noise
