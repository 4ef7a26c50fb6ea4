"""A table of losses corrected by measured whole plans: Bayesian regression around the table.

The additive sum z = sum theta[v, s_v] predicts the loss through a power law with a ceiling. Prior of theta: the
table T times 1 + u_s + w_vs, u shared by all variables at scheme s (plans that lower everything together
are mispredicted together), w each entry's own. What no sum explains is a factor of z that plans share as
far as they are alike: a Gaussian process on a power of their cosine. Posterior in kernel form.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mpsearch.search.additive.contraction import Reduced
from mpsearch.stats.estimates import Bools, Floats, Ints
from mpsearch.stats.saturation import Link, fit_link

_LOCAL = 4  # power of the cosine: how alike plans must be to share a misfit
_NOISE = 0.02  # of z, of each measurement
_SATURATED = 0.03  # of the largest loss: how exactly a loss near the ceiling is known
_FLOOR = 0.02  # of the median entry: a loss that does not matter, and what an entry of 0 may turn out to be
_SHARED = (
    0.1,
    0.4,
)  # prior deviations of u that are tried; those under which the losses are likeliest are taken
_OWN = (0.1, 0.3, 0.6)  # of w
_MISFIT = (0.1, 0.25, 0.5)  # of the factor that no sum explains


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What measurements say of a table.

    Attributes:
        table: [V, S] posterior mean of theta.
        link: From sums to losses.
    """

    table: Floats
    link: Link
    _prior: "_Prior"
    _rows: Ints
    _predicted: Floats
    _weights: Floats  # [P] kernel weights of the residuals
    _factor: tuple[Floats, bool]

    def predict(self, rows: Ints) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the loss of assignments [P, V]."""
        start = self._prior.sums(rows)
        cross = self._prior.kernel(rows, start, self._rows, self._predicted)
        z = start + cross @ self._weights
        inner = (cross * cho_solve(self._factor, cross.T).T).sum(axis=1)
        variance = np.maximum(self._prior.variances(rows, start) - inner, 0.0)
        return self.link.losses(z), self.link.slopes(z) * np.sqrt(variance)

    def draw(self, rng: np.random.Generator) -> Floats:
        """Return one table [V, S] from the posterior (Matheron's rule)."""
        prior = self._prior
        effects = prior.draw(rng)
        spread = np.sqrt(prior.misfit**2 + _NOISE**2) * np.abs(self._predicted)
        seen = _sums(effects, self._rows) + spread * rng.standard_normal(len(spread))
        return self.table + effects - prior.effects(self._rows, cho_solve(self._factor, seen))


@dataclass(frozen=True, slots=True, eq=False)
class _Prior:
    """What is believed before measuring."""

    table: Floats
    edges: Ints
    pairs: Floats | None
    floor: float
    shared: float
    own: float
    misfit: float

    @property
    def own_variances(self) -> Floats:
        """[V, S] of w times its entry, and of what an entry of 0 may turn out to be."""
        value: Floats = (self.own * self.table) ** 2 + self.floor**2
        return value

    def sums(self, rows: Ints) -> Floats:
        total = _sums(self.table, rows)
        if self.pairs is not None:
            i, j = rows[:, self.edges[:, 0]], rows[:, self.edges[:, 1]]
            total = total + self.pairs[np.arange(len(self.edges)), i, j].sum(axis=1)
        return total

    def sizes(self, rows: Ints) -> Floats:
        """Return [P, S] the entries' sizes summed by scheme: what u multiplies."""
        size = np.abs(self.table)
        parts = [((rows == s) * size[:, s]).sum(axis=1) for s in range(size.shape[1])]
        return np.stack(parts, axis=1)

    def effects(self, rows: Ints, weights: Floats) -> Floats:
        """Return what residuals with kernel weights [P] at ``rows`` [P, V] add to the table [V, S]."""
        S = self.table.shape[1]
        own = np.stack([weights @ (rows == s) for s in range(S)], axis=1)
        shared = self.shared**2 * (weights @ self.sizes(rows))
        value: Floats = self.own_variances * own + np.abs(self.table) * shared
        return value

    def draw(self, rng: np.random.Generator) -> Floats:
        """Return [V, S] what one draw from the prior adds to the table."""
        own = np.sqrt(self.own_variances) * rng.standard_normal(self.table.shape)
        value: Floats = own + np.abs(self.table) * self.shared * rng.standard_normal(own.shape[1])
        return value

    def kernel(self, rows: Ints, sums: Floats, others: Ints, other_sums: Floats) -> Floats:
        """Return the prior covariance of z of plans [P] and others [Q]."""
        return self.weigh(self.parts(rows, sums, others, other_sums))

    def parts(self, rows: Ints, sums: Floats, others: Ints, other_sums: Floats) -> list[Floats]:
        """Return what the kernel weighs: overlaps of entries, of all, of schemes, and likeness."""
        size = np.abs(self.table)
        bulk = size + self.floor
        like = _overlap(bulk, rows, others)
        like /= np.sqrt(_sums(bulk, rows)[:, None] * _sums(bulk, others))
        misfit = np.abs(sums)[:, None] * np.abs(other_sums) * like**_LOCAL
        return [
            _overlap(size**2, rows, others),
            _overlap(np.full(size.shape, self.floor**2), rows, others),
            self.sizes(rows) @ self.sizes(others).T,
            misfit,
        ]

    def weigh(self, parts: list[Floats]) -> Floats:
        """Return the kernel of :meth:`parts`."""
        own, floor, shared, misfit = parts
        value: Floats = (
            self.own**2 * own + floor + self.shared**2 * shared + self.misfit**2 * misfit
        )
        return value

    def variances(self, rows: Ints, sums: Floats) -> Floats:
        """Return the diagonal of the kernel [P]."""
        shared = ((self.shared * self.sizes(rows)) ** 2).sum(axis=1)
        value: Floats = _sums(self.own_variances, rows) + shared + (self.misfit * sums) ** 2
        return value


def _sums(table: Floats, rows: Ints) -> Floats:
    """Return [P] the entries of ``table`` [V, S] that ``rows`` [P, V] take, added up."""
    total: Floats = table[np.arange(len(table)), rows].sum(axis=1)
    return total


def _overlap(table: Floats, rows: Ints, others: Ints) -> Floats:
    """Return [P, Q] the entries of ``table`` [V, S] that both plans take, added up."""
    total = np.zeros((len(rows), len(others)))
    for s in range(table.shape[1]):
        total += ((rows == s) * table[:, s]) @ (others == s).T.astype(np.float64)
    return total


def correct_table(
    table: Floats,
    allowed: Bools,
    rows: Ints,
    losses: Floats,
    *,
    edges: Ints | None = None,
    pairs: Floats | None = None,
) -> Correction:
    """Fit a table to measured whole plans.

    Args:
        table: [V, S] losses of one variable at a scheme, the others at the base.
        allowed: [V, S].
        rows: [P, V] plans that were measured.
        losses: [P] their losses.
        edges: [E, 2] pairs of variables with pair terms.
        pairs: [E, S, S] their pair terms, which are taken as they are.
    """
    if edges is None or not len(edges):
        edges, pairs = np.zeros((0, 2), np.int64), None
    size = np.abs(table)[allowed]
    unit = max(float(np.median(size)), 1e-4 * float(size.max()), 1e-98)
    priors = [
        _Prior(table, edges, pairs, _FLOOR * unit, shared, own, misfit)
        for shared, own, misfit in product(_SHARED, _OWN, _MISFIT)
    ]
    predicted = priors[0].sums(rows)
    link = fit_link(predicted, losses)
    z = link.sums(losses)
    residual = z - predicted
    slope = np.maximum(np.abs(link.slopes(z)), 1e-6)
    noise = _NOISE * np.abs(predicted) + _FLOOR * unit
    if not link.linear:  # near the ceiling a loss hardly says what the sum is
        noise = noise + _SATURATED * float(losses.max()) * np.maximum(1.0 / slope - 1.0, 0.0)
    best: tuple[float, _Prior, tuple[Floats, bool]] | None = None
    parts = priors[0].parts(rows, predicted, rows, predicted)
    for prior in priors:
        factor = cho_factor(prior.weigh(parts) + np.diag(noise**2), lower=True)
        fit = float(residual @ cho_solve(factor, residual))
        likelihood = -0.5 * fit - float(np.log(np.diag(factor[0])).sum())
        if best is None or likelihood > best[0]:
            best = (likelihood, prior, factor)
    if best is None:  # the grid is never empty
        raise AssertionError
    _, prior, factor = best
    weights = cho_solve(factor, residual)
    corrected = table + prior.effects(rows, weights)
    return Correction(corrected, link, prior, rows, predicted, weights, factor)


def correct_objective(reduced: Reduced, column: int, rows: Ints, losses: Floats) -> Correction:
    """Fit objective ``column`` of a problem to measured ``losses`` [P] of assignments ``rows`` [P, V]."""
    return correct_table(
        reduced.values[:, :, column],
        reduced.allowed,
        rows,
        losses,
        edges=reduced.edges,
        pairs=reduced.pair_values[..., column],
    )
