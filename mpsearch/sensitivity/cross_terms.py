"""Cross terms: measured entries, and for all pairs of groups what second order says of them together.

A plan's errors move the outputs together: to second order its divergence is ½ E[(Σ g·dY)²], whose
diagonal is ``fisher`` and whose off-diagonal is how far two layers push the same samples the same way.
Every pair comes at no price beyond ``fisher``'s own. Second order overstates what pairs do in plans that are
far from the fp32 model, so one factor, fitted to a few measured plans, scales them all.
"""

from dataclasses import replace

import numpy as np

from mpsearch.problem.tables import Table
from mpsearch.registry import find
from mpsearch.sensitivity.selftest import ceiling, draw_plans
from mpsearch.sensitivity.shared.entries import finite_loss, predict, single_changes
from mpsearch.sensitivity.shared.error_responses import enough_draws, responses, responses_effort
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, Ints
from mpsearch.stats.rank_correlation import saturated

PLANS = 24
MAX_EDGES = 2000


def score(task: MetricTask) -> Table:
    """Measure each group at each scheme, and predict the pair terms of all groups.

    The table has an edge for each of the 2000 pairs with the largest terms, so that searches that need a
    narrow graph of edges (``exact``) refuse it; those that evaluate plans take it.

    Args:
        task: What to score; no budget measures every entry and 24 plans.

    Raises:
        InfeasibleError: The budget does not reach all entries.
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    simulator, seed = task.simulator, task.seed
    single = find("metrics", "perturbation").score(task)
    n_plans = (
        PLANS if task.budget is None else max(0, task.budget - len(single_changes(simulator)) - 1)
    )
    edges, terms = predicted_pairs(simulator, seed=seed)
    plans = draw_plans(single.allowed, n_plans, seed=seed + 1)
    measured = [finite_loss(simulator, plan) for plan in plans]
    plans = plans[[loss is not None for loss in measured]]
    losses = np.array([loss for loss in measured if loss is not None])
    useful = ~saturated(losses, ceiling(simulator))
    coupled = replace(single, metric="cross_terms", edges=edges, pair_terms=terms)
    factor = fit_factor(
        predict(single, plans[useful]), predict(coupled, plans[useful]), losses[useful]
    )
    spent = responses_effort(simulator) + n_plans
    return replace(coupled, pair_terms=factor * terms, cost_plans=single.cost_plans + spent)


METRIC = Metric(score, measures=True, needs_gradients=True)


def predicted_pairs(simulator: Simulator, *, seed: int = 0) -> tuple[Ints, Floats]:
    """Return [E, 2] pairs of groups and their [E, S, S] terms E[(g·dY of one)(g·dY of the other)]."""
    n_groups, n_schemes = simulator.allowed.shape
    size = n_groups * n_schemes
    gram, count = np.zeros((size, size)), 0
    for changes, _ in responses(simulator, n_draws=enough_draws(simulator), seed=seed):
        rows = np.where(np.isfinite(changes), changes, 0.0).reshape(-1, size)  # Inf: refused
        gram += rows.T @ rows
        count += len(rows)
    whole = (gram / count).reshape(n_groups, n_schemes, n_groups, n_schemes).transpose(0, 2, 1, 3)
    first, second = np.triu_indices(n_groups, 1)
    terms = whole[first, second]
    order = np.argsort(-np.abs(terms).max(axis=(1, 2), initial=0.0), kind="stable")
    kept = np.sort(order[:MAX_EDGES])
    edges = np.stack([first[kept], second[kept]], axis=1).astype(np.int64)
    return edges, np.asarray(terms[kept], np.float64)


def fit_factor(alone: Floats, together: Floats, measured: Floats) -> float:
    """Return the factor in [0, 1] of the pair terms that fits measured losses best, in logarithms.

    Args:
        alone: [P] sums without pair terms.
        together: [P] sums with them.
        measured: [P] losses.
    """
    if len(measured) < 3:
        return 0.0
    floor = 0.05 * float(np.median(np.maximum(measured, 0.0))) + 1e-12
    wanted = np.log(np.maximum(measured, 0.0) + floor)
    factors = np.linspace(0, 1, 41)
    spreads = []
    for factor in factors:
        found = np.maximum((1 - factor) * alone + factor * together, 0.0)
        spreads.append(float(np.std(np.log(found + floor) - wanted)))
    return float(factors[int(np.argmin(spreads))])
