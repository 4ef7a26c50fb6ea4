"""Corrections of a table by measurements: a law for the entries, a regression for whole plans."""

import numpy as np
from scipy import stats

from mpsearch.problem.tables import Table
from mpsearch.stats.entry_regression import fit_law
from mpsearch.stats.estimates import Bools, Floats, Ints
from mpsearch.stats.plan_regression import fit_plans

_IN_PLANS = 0.2  # deviation of the logarithm of what a measured entry counts in plans
_MOST_UNSURE = 5.0  # of a relative error


def correct_entries(
    prior: Table, measured: Floats, errors: Floats, known: Bools, entries: Bools, kinds: Ints
) -> tuple[Floats, Floats]:
    """Return [G, S] values and standard errors from a prior and measurements of some entries.

    What was not measured follows the law of :mod:`mpsearch.stats.entry_regression`; 95 % of log-normal entries lie
    within 1.96 standard errors. A measured entry keeps its measurement and that one's error: samples that
    all plans share do not disorder them.

    Args:
        prior: Table of the cheap metric.
        measured: [G, S] measured values where ``known``.
        errors: [G, S] their standard errors.
        known: [G, S] what was measured.
        entries: [G, S] what is to be scored; 0 elsewhere.
        kinds: [S] schemes of one kind err alike within a group.
    """
    least = 1e-3 * abs(float(np.median(measured[known]))) if known.any() else 0.0
    floor = 1e-9 * float(
        prior.values[entries].max(initial=1e-300)
    )  # below it an entry does nothing
    usable = known & (measured > least) & (prior.values > floor)
    law = fit_law(np.log(np.maximum(prior.values, floor)), measured, usable, kinds)
    quantile = float(stats.t.ppf(0.95, max(int(usable.sum()) - 1, 1)))
    spread = np.expm1(np.minimum(quantile * law.deviations, 3.0)) / 1.96
    guess = np.where(prior.values > floor, np.exp(law.logarithms), 0.0)
    own = prior.stderr * guess / np.maximum(prior.values, 1e-300)
    values = np.where(known, measured, np.where(entries, guess, 0.0))
    stderr = np.where(known, errors, np.where(entries, np.hypot(guess * spread, own), 0.0))
    return values, stderr


def correct_by_plans(
    table: Table, kinds: Ints, plans: Ints, losses: Floats, limit: float
) -> tuple[Floats, Floats]:
    """Return [G, S] values that agree with measured losses of plans, and their standard errors.

    The regression of :mod:`mpsearch.stats.plan_regression`: what was measured alone is off in plans by what plans
    tell, what was not by the error of its law too. What an entry does alone and what it adds to a plan
    differ: standard errors hold that as well.

    Args:
        table: What is known of entries; the detail ``measured`` says which were measured alone.
        kinds: [S] schemes of one kind err alike within a group.
        plans: [P, G] measured plans.
        losses: [P] their losses.
        limit: Loss beyond which plans are of no use; no entry is said to bring more.
    """
    if len(plans) == 0:
        return table.values, table.stderr
    values = table.values
    relative = 1.96 * table.stderr / np.maximum(np.abs(values), 1e-300)
    unsure = np.log1p(np.minimum(relative, _MOST_UNSURE)) / 1.96
    alone = table.details["measured"] > 0
    deviations = np.where(alone, _IN_PLANS, np.hypot(_IN_PLANS, unsure))
    known = float(losses.max()) if np.isinf(limit) else limit
    moved = np.minimum(fit_plans(values, deviations, kinds, plans, losses, known), limit)
    return moved, np.hypot(table.stderr, moved - values)
