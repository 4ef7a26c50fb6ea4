"""Corrections of a table by measurements: a law for the entries, a posterior for whole plans."""

import numpy as np
from scipy import stats

from mpsearch.problem.tables import Table
from mpsearch.search.measured.table_regression import Deviations, correct_table
from mpsearch.stats.entry_regression import fit_law
from mpsearch.stats.estimates import Bools, Floats, Ints

_DEVIATIONS = Deviations(  # a table may be far off where losses saturate: wider than in a search
    shared=(0.1, 0.4, 0.8), own=(0.1, 0.3, 0.6, 1.2), floor=(0.02, 3.0)
)
_LEAST_SHARE = 0.1  # of its value that plans leave an entry


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


def correct_by_plans(values: Floats, allowed: Bools, plans: Ints, losses: Floats) -> Floats:
    """Return [G, S] values that agree better with measured losses of plans.

    The correction that searches use (:func:`mpsearch.search.measured.table_regression.correct_table`): a Bayesian regression
    whose deviations are those under which the losses are likeliest. No entry falls below a tenth of its value.
    What sums and losses have between them, a power law with a ceiling, orders no plans; one factor makes the
    median plan's sum its loss.

    Args:
        values: [G, S] values to correct.
        allowed: [G, S].
        plans: [P, G] measured plans.
        losses: [P] their losses.
    """
    if len(plans) == 0:
        return values
    moved = correct_table(values, allowed, plans, losses, deviations=_DEVIATIONS).table
    least = np.where(values > 0, _LEAST_SHARE * values, -np.inf)
    kept = np.where(values == 0, 0.0, np.maximum(moved, least))
    sums = kept[np.arange(len(kept)), plans].sum(axis=1)
    good = (sums > 0) & (losses > 0)
    return kept * float(np.median(losses[good] / sums[good])) if good.any() else kept
