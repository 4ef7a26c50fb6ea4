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

from mpsearch.search.link import Link, fit_link
from mpsearch.search.reduce import Reduced
from mpsearch.tables import Floats, Ints

_SHARED = (0.1, 0.4)  # prior deviations of u that are tried
_OWN = (0.1, 0.3, 0.6)  # of w
_MISFIT = (0.1, 0.25, 0.5)  # of the factor that no sum explains
_LOCAL = 4  # power of the cosine: how alike plans must be to share a misfit
_NOISE = 0.02  # of z, of each measurement
_SATURATED = 0.03  # of the largest loss: how exactly a loss near the ceiling is known
_FLOOR = 0.02  # of the median entry: what an entry of 0 may turn out to be


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
        weights = rng.standard_normal(prior.n_features)
        features = prior.features(self._rows)
        spread = np.sqrt(prior.misfit**2 + _NOISE**2) * np.abs(self._predicted)
        seen = features @ weights + spread * rng.standard_normal(len(features))
        weights = weights - features.T @ cho_solve(self._factor, seen)
        return self.table + prior.effects(weights)


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
    def n_features(self) -> int:
        V, S = self.table.shape
        return V * S + S

    def sums(self, rows: Ints) -> Floats:
        total: Floats = self.table[np.arange(len(self.table)), rows].sum(axis=1)
        if self.pairs is not None:
            i, j = rows[:, self.edges[:, 0]], rows[:, self.edges[:, 1]]
            total = total + self.pairs[np.arange(len(self.edges)), i, j].sum(axis=1)
        return total

    def features(self, rows: Ints) -> Floats:
        """Return [P, V S + S]: a plan's own effects in units of their prior, then each scheme's."""
        V, S = self.table.shape
        taken = rows[:, :, None] == np.arange(S)
        size = np.abs(self.table)
        own = (taken * (self.own * size + self.floor)).reshape(len(rows), V * S)
        shared = (taken * (self.shared * size)).sum(axis=1)
        return np.concatenate([own, shared], axis=1)

    def effects(self, weights: Floats) -> Floats:
        """Return what unit effects [V S + S] add to the table [V, S]."""
        V, S = self.table.shape
        size = np.abs(self.table)
        own: Floats = (self.own * size + self.floor) * weights[: V * S].reshape(V, S)
        return own + self.shared * size * weights[V * S :]

    def directions(self, rows: Ints) -> Floats:
        """Return [P, V S] unit vectors whose products say how alike two plans are, 0 to 1."""
        V, S = self.table.shape
        taken = rows[:, :, None] == np.arange(S)
        roots = np.sqrt(taken * (np.abs(self.table) + self.floor)).reshape(len(rows), V * S)
        unit: Floats = roots / np.linalg.norm(roots, axis=1, keepdims=True)
        return unit

    def kernel(self, rows: Ints, sums: Floats, others: Ints, other_sums: Floats) -> Floats:
        """Return the prior covariance of z of plans [P] and others [Q]."""
        likeness = (self.directions(rows) @ self.directions(others).T) ** _LOCAL
        misfit = self.misfit**2 * np.abs(sums)[:, None] * np.abs(other_sums)
        covariance: Floats = self.features(rows) @ self.features(others).T + misfit * likeness
        return covariance

    def variances(self, rows: Ints, sums: Floats) -> Floats:
        """Return the diagonal of the kernel [P]."""
        value: Floats = (self.features(rows) ** 2).sum(axis=1) + (self.misfit * sums) ** 2
        return value


def correct_table(reduced: Reduced, column: int, rows: Ints, losses: Floats) -> Correction:
    """Fit the table of objective ``column`` to measured ``losses`` [P] of assignments ``rows`` [P, V].

    Shared, own and misfit deviations are those of a small grid under which the losses are likeliest.
    """
    table = reduced.values[:, :, column]
    pairs = reduced.pair_values[..., column] if len(reduced.edges) else None
    floor = _FLOOR * float(np.median(np.abs(table)[reduced.allowed])) + 1e-300
    grid = [
        _Prior(table, reduced.edges, pairs, floor, shared, own, misfit)
        for shared, own, misfit in product(_SHARED, _OWN, _MISFIT)
    ]
    predicted = grid[0].sums(rows)
    link = fit_link(predicted, losses)
    z = link.sums(losses)
    residual = z - predicted
    slope = np.maximum(np.abs(link.slopes(z)), 1e-6)
    noise = _NOISE * np.abs(predicted) + floor
    if not link.linear:  # near the ceiling a loss hardly says what the sum is
        noise = noise + _SATURATED * float(losses.max()) * np.maximum(1.0 / slope - 1.0, 0.0)
    best: tuple[float, _Prior, tuple[Floats, bool]] | None = None
    for prior in grid:
        kernel = prior.kernel(rows, predicted, rows, predicted)
        factor = cho_factor(kernel + np.diag(noise**2), lower=True)
        fit = float(residual @ cho_solve(factor, residual))
        likelihood = -0.5 * fit - float(np.log(np.diag(factor[0])).sum())
        if best is None or likelihood > best[0]:
            best = (likelihood, prior, factor)
    if best is None:  # the grid is never empty
        raise AssertionError
    _, prior, factor = best
    weights = cho_solve(factor, residual)
    corrected = table + prior.effects(prior.features(rows).T @ weights)
    return Correction(corrected, link, prior, rows, predicted, weights, factor)
