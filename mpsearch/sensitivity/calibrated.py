"""Calibrated: a cheap table corrected by measurements, with error bars that the measurements justify.

A prior (``fisher``) ranks all entries for the price of a few evaluations. Then some entries are measured
one at a time, most of them where the prior is largest, the others spread over its range. What is
measured is kept; a power law in the prior, shrunk towards the prior itself, corrects the rest, and
the held-out residuals of that law are their standard errors. Whole plans that are not saturated
correct what adding up gets wrong: a factor a scheme and a smaller one an entry, both shrunk
towards 1.
"""

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from mpsearch.execute.simulator import Simulator
from mpsearch.registry import find
from mpsearch.sensitivity.ranking import predict, saturated
from mpsearch.sensitivity.selftest import draw_plans
from mpsearch.sensitivity.single import (
    base_assignment,
    change_one,
    single_changes,
)
from mpsearch.tables import Bools, Costs, Floats, Ints, Progress, Table

PRIOR = "fisher"
_SHARE_OF_PLANS = 0.4
_SHARE_OF_LARGEST = 0.7  # of the measured entries; the rest are spread over the prior's range
_OFFSET_SPREAD = 1.0  # of the law's offset, in logarithms
_SCHEME_SPREAD = 0.2  # of a scheme's own offset
_SLOPE_SPREAD = 0.1
_LEAST_SPREAD = 0.05  # no law is better than this
_FACTOR_SPREAD = 0.3  # of a scheme's factor in whole plans
_ENTRY_SPREAD = 0.1
_NOISE_SPREAD = 0.3  # of a plan's loss about the sum


def score(
    simulator: Simulator,
    *,
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Measure some entries and plans and correct the prior by them.

    ``details`` holds the ``prior`` and 1 where an entry was ``measured``.

    Args:
        simulator: The model and its data.
        costs: Not needed.
        budget: Whole-plan evaluations beside the prior's; None spends twice what the prior takes. From
            entries + 1 on every entry is measured, and what is left goes to plans.
        seed: Seed of the prior and of the plans.
        progress: Told the measurements that are done.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    prior: Table = find("metrics", PRIOR)(simulator, seed=seed)
    entries = single_changes(simulator)
    total = max(4, round(2 * prior.cost_plans)) if budget is None else max(budget, 4)
    complete = total >= len(entries) + 1
    n_single = len(entries) if complete else round((1 - _SHARE_OF_PLANS) * (total - 1))
    n_plans = total - 1 - n_single
    chosen = _choose(prior, entries, n_single)
    measured, errors = np.zeros_like(prior.values), np.zeros_like(prior.values)
    known = np.zeros(prior.values.shape, np.bool_)
    base = base_assignment(simulator)
    reference = simulator.losses(base)
    for done, (g, s) in enumerate(chosen):
        if progress is not None:
            progress(done, n_single + n_plans, f"{simulator.groups[g]} in {prior.schemes[s]}")
        change = simulator.losses(change_one(base, g, s)) - reference
        measured[g, s], errors[g, s] = simulator.estimate(change)
        known[g, s] = True
    open_entries = np.zeros(prior.values.shape, np.bool_)
    for g, s in entries:
        open_entries[g, s] = True
    values, stderr = correct_entries(prior, measured, errors, known, open_entries)
    table = replace(
        prior,
        metric="calibrated",
        values=values,
        stderr=stderr,
        details={"prior": prior.values, "measured": known.astype(np.float64)},
        cost_plans=prior.cost_plans + 1 + n_single + n_plans,
    )
    plans, losses = _measure_plans(simulator, table, n_plans, n_single, seed, progress)
    factors = plan_factors(table, plans, losses)
    if progress is not None:
        progress(n_single + n_plans, n_single + n_plans, "prior corrected")
    # what one entry does alone and what it adds to a plan differ by the factor: that too is unknown
    moved = np.abs(table.values) * np.abs(factors - 1)
    return replace(
        table, values=table.values * factors, stderr=np.hypot(table.stderr * factors, moved)
    )


def correct_entries(
    prior: Table, measured: Floats, errors: Floats, known: Bools, entries: Bools
) -> tuple[Floats, Floats]:
    """Return [G, S] values and standard errors from a prior and measurements of some entries.

    In logarithms: measured = offset + offset(scheme) + slope · prior, fitted by ridge regression towards
    0, 0 and 1; the spread of its leave-one-out residuals is the error of the entries that were not
    measured. A measured entry keeps its measurement and that one's error: samples that all plans share do
    not disorder them.

    Args:
        prior: Table of the cheap metric.
        measured: [G, S] measured values where ``known``.
        errors: [G, S] their standard errors.
        known: [G, S] what was measured.
        entries: [G, S] what is to be scored; 0 elsewhere.
    """
    floor = 1e-3 * float(np.median(measured[known])) if known.any() else 0.0
    smallest = float(prior.values[entries & (prior.values > 0)].min(initial=np.inf))
    floor = max(abs(floor), 1e-12 if not np.isfinite(smallest) else 1e-3 * smallest)
    x = np.log(np.maximum(prior.values, floor))
    usable = known & (measured > floor) & (prior.values > floor)
    law, spread = _fit_law(x, measured, usable)
    guess = np.exp(law)
    guess[prior.values <= floor] = 0.0
    values = np.where(entries, guess, 0.0)
    stderr = np.where(
        entries, np.hypot(guess * spread, prior.stderr * guess / _above(prior.values)), 0.0
    )
    values = np.where(known, measured, values)
    stderr = np.where(known, errors, stderr)
    return values, stderr


def plan_factors(table: Table, plans: Ints, losses: Floats) -> Floats:
    """Return [G, S] factors that make sums of ``table`` agree with measured losses of plans.

    A factor a scheme and one an entry, log-normal about 1; 1 everywhere without plans.

    Args:
        table: Table to correct.
        plans: [P, G] measured plans.
        losses: [P] their losses.
    """
    n_groups, n_schemes = table.values.shape
    if len(plans) == 0:
        return np.ones((n_groups, n_schemes))
    rows = np.arange(n_groups)
    floor = 0.05 * float(np.median(np.maximum(losses, 0.0))) + 1e-12
    wanted = np.log(np.maximum(losses, 0.0) + floor)
    parts = np.maximum(table.values[rows, plans], 0.0)  # [P, G]

    def objective(theta: Floats) -> tuple[float, Floats]:
        scheme, entry = theta[:n_schemes], theta[n_schemes:].reshape(n_groups, n_schemes)
        terms = parts * np.exp((scheme + entry)[rows, plans])
        total = terms.sum(axis=1) + floor
        residual = (np.log(total) - wanted) / _NOISE_SPREAD
        value = 0.5 * float(np.square(residual).sum())
        value += 0.5 * float(np.square(scheme).sum()) / _FACTOR_SPREAD**2
        value += 0.5 * float(np.square(entry).sum()) / _ENTRY_SPREAD**2
        pull = (residual / _NOISE_SPREAD / total)[:, None] * terms  # [P, G]
        by_entry = np.zeros((n_groups, n_schemes))
        np.add.at(by_entry, (np.broadcast_to(rows, plans.shape), plans), pull)
        gradient = np.concatenate(
            [
                by_entry.sum(axis=0) + scheme / _FACTOR_SPREAD**2,
                (by_entry + entry / _ENTRY_SPREAD**2).ravel(),
            ]
        )
        return value, gradient

    start = np.zeros(n_schemes + n_groups * n_schemes)
    theta = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    entry = theta[n_schemes:].reshape(n_groups, n_schemes)
    return np.asarray(np.exp(theta[:n_schemes] + entry), np.float64)


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


def _choose(prior: Table, entries: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """``count`` entries: mostly where the prior is largest, the others spread over its order."""
    if count >= len(entries):
        return entries
    ordered = sorted(entries, key=lambda entry: -prior.values[entry])
    largest = round(_SHARE_OF_LARGEST * count)
    rest = ordered[largest:]
    steps = np.linspace(0, len(rest) - 1, count - largest).round().astype(np.int64).tolist()
    return ordered[:largest] + [rest[step] for step in dict.fromkeys(steps)]


def _measure_plans(
    simulator: Simulator,
    table: Table,
    count: int,
    before: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Ints, Floats]:
    """Measure ``count`` plans that are predicted not to be saturated; keep those that are not."""
    if count <= 0:
        return np.zeros((0, len(table.groups)), np.int64), np.zeros(0)
    lowest = [predict(table, p[None])[0] for p in _uniform_plans(simulator)]
    drawn = draw_plans(simulator.allowed, 20 * count, seed=seed + 1)
    likely = drawn[predict(table, drawn) <= 0.5 * max(lowest)]
    plans = (likely if len(likely) >= count else drawn)[:count]
    losses = np.zeros(len(plans))
    for done, plan in enumerate(plans):
        if progress is not None:
            progress(before + done, before + count, "measuring plans")
        losses[done] = simulator.loss(plan).mean
    keep = ~saturated(losses, max(float(losses.max()), 1e-300)) | (losses <= np.median(losses))
    return plans[keep], losses[keep]


def _uniform_plans(simulator: Simulator) -> list[Ints]:
    base = simulator.space.index(simulator.space.base)
    return [
        np.where(simulator.allowed[:, s], s, base).astype(np.int64)
        for s in range(simulator.allowed.shape[1])
    ]


def _above(x: Floats) -> Floats:
    return np.maximum(x, 1e-300)
