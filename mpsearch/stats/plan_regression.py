"""From entries to whole plans: bent sums of entries fitted to measured losses, in logarithms.

In a network that is sure of its answers small errors together lose more than the sum of what each loses
alone. There not losses add up but φ(L) = t/q · ((1 + L/t)^q − 1): L itself below t, its q-th power above. An entry
counts in whole plans by a factor of its own, exp(η), η = scheme + group + kind of scheme in the group +
entry, all normal around 0:

    log L(plan) = log φ⁻¹(Σ φ(entry) · exp(η)) + offset + slope · level + noise

Errors are relative, and an entry answers for a plan by its share in it: plans of large losses do not move entries that hardly
count in them. The posterior of η is that of one linear step, a Gaussian process over plans. t, q and all deviations are
averaged over a grid, weighted by their evidence.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mpsearch.stats.estimates import Floats, Ints

_POWERS = {1.0: 0.0, 0.7: -0.7, 0.5: -1.4, 0.3: -2.1}
"""q and its prior log odds."""
_SCALES = (1e-5, 1e-4, 1e-3, 1e-2)  # t, of the limit
_SCHEME = (0.05, 0.3)  # deviations that are tried
_GROUP = (0.05, 0.3)  # of a group, and of a kind of scheme in it
_NOISE = (0.15, 0.3, 0.6)
_OFFSET, _SLOPE = 1.0, 0.3
_MOST = 2.0  # of |η|
_FLOOR = 1e-5  # of the limit: losses below it are all the same
_LEAST = 4  # plans from which anything is learnt


@dataclass(frozen=True, slots=True)
class Bend:
    """φ: what adds up.

    Attributes:
        power: q; 1 is the identity.
        scale: t.
    """

    power: float
    scale: float

    def apply(self, losses: Floats) -> Floats:
        """Return φ of losses, odd in its argument."""
        if self.power == 1.0:
            return losses
        bent = np.expm1(self.power * np.log1p(np.abs(losses) / self.scale))
        return np.asarray(np.sign(losses) * bent * self.scale / self.power)

    def undo(self, sums: Floats) -> tuple[Floats, Floats]:
        """Return the losses of sums z > 0, and d log L / d log z there."""
        if self.power == 1.0:
            return sums, np.ones_like(sums)
        inner = self.power * sums / self.scale
        losses = self.scale * np.expm1(np.log1p(inner) / self.power)
        return losses, sums * (1.0 + inner) ** (1.0 / self.power - 1.0) / losses


def fit_plans(
    values: Floats, deviations: Floats, kinds: Ints, plans: Ints, losses: Floats, limit: float
) -> Floats:
    """Return [G, S] values whose sums order plans as their losses do; the median plan's sum is its loss.

    Args:
        values: [G, S] loss of each entry alone; 0 stays 0, and signs stay.
        deviations: [G, S] how far log values may be off in plans, a priori.
        kinds: [S] number of each scheme's kind; those of one kind err alike within a group.
        plans: [P, G] measured plans.
        losses: [P] their losses.
        limit: Loss of a plan that is as bad as any of use.

    Returns:
        ``values`` where fewer than 4 plans have both a loss and a sum above 0.
    """
    rows, floor = np.arange(len(values)), _FLOOR * limit
    good = (losses > 0) & (values[rows, plans].sum(axis=1) > 0)
    if good.sum() < _LEAST:
        return values
    plans, logarithms = plans[good], np.log(losses[good] + floor)
    tables, evidences = list[Floats](), list[Floats]()
    for power, odds in _POWERS.items():
        scales = _SCALES if power != 1.0 else (1.0,)
        for scale in scales:
            bend = Bend(power, scale * limit)
            moved, evidence = _fit_bent(values, deviations, kinds, plans, logarithms, bend, floor)
            tables.append(moved)
            evidences.append(evidence + odds - np.log(len(scales)))
    evidence = np.concatenate(evidences)
    weights = np.exp(evidence - evidence.max())
    mean = np.tensordot(weights / weights.sum(), np.concatenate(tables), axes=1)
    fitted = np.where(values == 0, 0.0, np.sign(values) * np.exp(mean))
    sums = fitted[rows, plans].sum(axis=1)
    up = sums > 0
    if not up.any():
        return values
    return np.asarray(fitted * np.exp(np.median(logarithms[up] - np.log(sums[up] + floor))))


def _fit_bent(
    values: Floats,
    deviations: Floats,
    kinds: Ints,
    plans: Ints,
    logarithms: Floats,
    bend: Bend,
    floor: float,
) -> tuple[Floats, Floats]:
    """Return log |values| in whole plans [K, G, S] and log evidences [K] of K sets of deviations, under one bend."""
    n_plans, (n_groups, n_schemes) = len(plans), values.shape
    bent = bend.apply(values)
    parts = bent[np.arange(n_groups), plans]
    sums = np.maximum(parts.sum(axis=1), 1e-3 * np.abs(parts).sum(axis=1))
    lost, slope = bend.undo(sums)
    level = np.log(lost + floor)
    residual = logarithms - level
    shares = parts / sums[:, None] * (slope * lost / (lost + floor))[:, None]
    held = (plans[:, :, None] == np.arange(n_schemes)) * shares[:, :, None]  # [P, G, S]
    members = (kinds == np.arange(kinds.max() + 1)[:, None]).astype(np.float64)  # [kinds, S]
    by_kind = held @ members.T
    by_scheme = held.sum(axis=1)
    own = (held * deviations).reshape(n_plans, -1)
    common = np.stack([np.full(n_plans, _OFFSET), _SLOPE * (level - np.median(level))], axis=1)
    flat_kinds = by_kind.reshape(n_plans, -1)
    fixed = common @ common.T + own @ own.T
    kernels = np.stack([by_scheme @ by_scheme.T, shares @ shares.T + flat_kinds @ flat_kinds.T])
    grid = np.array(list(product(_SCHEME, _GROUP, _NOISE))) ** 2
    weights, evidence = np.empty((len(grid), n_plans)), np.empty(len(grid))
    for k, (*variances, noise) in enumerate(grid):
        covariance = fixed + np.tensordot(variances, kernels, axes=1) + noise * np.eye(n_plans)
        factor = cho_factor(covariance, lower=True)
        weights[k] = cho_solve(factor, residual)
        volume = 2.0 * np.log(np.diag(factor[0])).sum()
        evidence[k] = -0.5 * (residual @ weights[k] + volume)
    schemes, groups = (grid[:, i, None, None] for i in range(2))
    eta = (
        schemes * (weights @ by_scheme)[:, None, :]
        + groups * (weights @ shares)[:, :, None]
        + groups * (np.tensordot(weights, by_kind, axes=1) @ members)
        + deviations**2 * np.tensordot(weights, held, axes=1)
    )
    size = np.log(np.maximum(np.abs(bent), 1e-300))
    moved = size + np.clip(eta, -_MOST, _MOST)
    held_sizes = np.exp(moved)[:, np.arange(n_groups), plans]
    totals = np.maximum((np.sign(parts) * held_sizes).sum(axis=2), 1e-3 * held_sizes.sum(axis=2))
    scale = np.median(logarithms - np.log(totals), axis=1)
    return moved + scale[:, None, None], evidence
