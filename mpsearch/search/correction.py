"""A table of losses corrected by measured whole plans: Bayesian regression around the table.

The additive sum z = sum theta[v, s_v] predicts the loss through L = alpha z ** beta. Prior of theta: the
table T times 1 + u_s + w_vs, u shared by all variables at scheme s (plans that lower everything together
are mispredicted together), w each entry's own. Posterior by the kernel form of ridge regression.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mpsearch.search.reduce import Reduced
from mpsearch.tables import Floats, Ints

_SHARED = (0.1, 0.4)  # prior deviations of u that are tried
_OWN = (0.15, 0.4, 0.8)  # of w
_NOISE = (0.03, 0.1, 0.25)  # of z, relative: what no sum explains
_FLOOR = 0.02  # of the median entry: what an entry of 0 may turn out to be


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What measurements say of a table.

    Attributes:
        table: [V, S] posterior mean of theta.
        alpha: Factor of the link.
        beta: Exponent of the link; 1 with alpha 1 where losses may be negative.
    """

    table: Floats
    alpha: float
    beta: float
    _scales: Floats  # [V, S, 2] prior deviation of own and shared effects
    _features: Floats  # [P, V S + S] of the measured plans
    _factor: tuple[Floats, bool]
    _pairs: Floats | None
    _edges: Ints

    def predict(self, rows: Ints) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the loss of assignments [P, V]."""
        z = _sums(self.table, self._edges, self._pairs, rows)
        features = _features(rows, self._scales)
        cross = features @ self._features.T
        inner = (cross * cho_solve(self._factor, cross.T).T).sum(axis=1)
        variance = np.maximum((features**2).sum(axis=1) - inner, 0.0)
        if self.beta == 1.0:
            return self.alpha * z, self.alpha * np.sqrt(variance)
        safe = np.maximum(z, 1e-300)
        mean = self.alpha * safe**self.beta
        return mean, mean * self.beta * np.sqrt(variance) / safe

    def draw(self, rng: np.random.Generator) -> Floats:
        """Return one table [V, S] from the posterior (Matheron's rule)."""
        V, S = self.table.shape
        noise = rng.standard_normal(V * S + S)
        seen = self._features @ noise
        noise = noise - self._features.T @ cho_solve(self._factor, seen)
        return self.table + _effects(noise, self._scales)


def correct_table(reduced: Reduced, column: int, rows: Ints, losses: Floats) -> Correction:
    """Fit the table of objective ``column`` to measured ``losses`` [P] of assignments ``rows`` [P, V].

    Shared, own and noise deviations are those of a small grid under which the losses are likeliest.
    """
    table = reduced.values[:, :, column]
    pairs = reduced.pair_values[..., column] if len(reduced.edges) else None
    predicted = _sums(table, reduced.edges, pairs, rows)
    alpha, beta = _fit_link(predicted, losses)
    z = losses / alpha if beta == 1.0 else (np.maximum(losses, 1e-300) / alpha) ** (1 / beta)
    size = np.abs(table)
    floor = _FLOOR * float(np.median(size[reduced.allowed])) + 1e-300
    residual = z - predicted
    spread = np.abs(predicted) + float(np.median(np.abs(predicted))) * 0.05 + 1e-300
    best: tuple[float, Floats, Floats, tuple[Floats, bool]] | None = None
    for shared in _SHARED:
        for own in _OWN:
            scales = np.stack([own * size + floor, shared * size], axis=2)
            features = _features(rows, scales)
            kernel = features @ features.T
            for noise in _NOISE:
                factor = cho_factor(kernel + np.diag((noise * spread) ** 2), lower=True)
                fit = float(residual @ cho_solve(factor, residual))
                likelihood = -0.5 * fit - float(np.log(np.diag(factor[0])).sum())
                if best is None or likelihood > best[0]:
                    best = (likelihood, scales, features, factor)
    if best is None:  # the grid is never empty
        raise AssertionError
    _, scales, features, factor = best
    effects = features.T @ cho_solve(factor, residual)
    corrected = table + _effects(effects, scales)
    return Correction(corrected, alpha, beta, scales, features, factor, pairs, reduced.edges)


def _fit_link(predicted: Floats, losses: Floats) -> tuple[float, float]:
    """Return alpha, beta of L = alpha z ** beta by least squares of logarithms, beta within 0.5..2."""
    if len(losses) < 4 or (losses <= 0).any() or (predicted <= 0).any():
        return 1.0, 1.0
    x, y = np.log(predicted), np.log(losses)
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 1e-12 else 1.0
    shrunk = (slope * len(x) + 4.0) / (len(x) + 4.0)
    beta = float(np.clip(shrunk, 0.5, 2.0))
    return float(np.exp((y - beta * x).mean())), beta


def _sums(table: Floats, edges: Ints, pairs: Floats | None, rows: Ints) -> Floats:
    total: Floats = table[np.arange(len(table)), rows].sum(axis=1)
    if pairs is not None:
        total = total + pairs[
            np.arange(len(edges)), rows[:, edges[:, 0]], rows[:, edges[:, 1]]
        ].sum(axis=1)
    return total


def _features(rows: Ints, scales: Floats) -> Floats:
    """Return [P, V S + S]: a plan's own effects, and the sums of each scheme's shared ones."""
    V, S, _ = scales.shape
    taken = rows[:, :, None] == np.arange(S)
    own = (taken * scales[:, :, 0]).reshape(len(rows), V * S)
    shared = (taken * scales[:, :, 1]).sum(axis=1)
    return np.concatenate([own, shared], axis=1)


def _effects(weights: Floats, scales: Floats) -> Floats:
    """Return what unit effects [V S + S] add to the table [V, S]."""
    V, S, _ = scales.shape
    added: Floats = scales[:, :, 0] * weights[: V * S].reshape(V, S)
    return added + scales[:, :, 1] * weights[V * S :]
