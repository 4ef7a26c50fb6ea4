"""Predicted fronts in tens of milliseconds: two objectives exactly, everything else by prices.

A front in two dimensions is a dynamic program that takes milliseconds; each further objective or limited
quantity would multiply that. Here such quantities are charged to the loss at a price (Lagrange), and
prices that gave plans within the limits are tried again, a little changed.
"""

import numpy as np

from mpsearch.errors import ProblemError
from mpsearch.search.additive.contraction import Reduced, add_up
from mpsearch.search.additive.convex_hull import sweep_hull
from mpsearch.search.additive.elimination import Additive, additive, eliminate
from mpsearch.stats.estimates import Bools, Floats, Ints

_EPS = 0.02  # of the first objective's range: what a front may be off
_LADDER = (
    0.01,
    0.03,
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
)  # first prices: range of loss over range of quantity
_TRIED = 3  # prices a front, from the second front on
_KEPT = 12
_SINGLE = 3  # up to so many quantities are priced one by one as well
_POINTS = 300  # of a hull


class PricedFronts:
    """Fronts of a known objective and the loss, for one table of losses after another."""

    def __init__(self, reduced: Reduced, *, known: int, loss: int) -> None:
        """Price every quantity but two.

        Args:
            reduced: The problem.
            known: Column of the objective that the tables say exactly.
            loss: Column of the loss, whose table changes from front to front.
        """
        self._all = additive(reduced)
        self._known, self._loss = known, loss
        self._priced = [k for k in range(self._all.values.shape[2]) if k not in (known, loss)]
        self._span = self._spans(self._all.values, self._all.pair_values)
        self._prices = self._ladder()
        self._first = True

    def solve(self, table: Floats, rng: np.random.Generator) -> Ints:
        """Return assignments of variables [P, V] on the front of ``table`` [V, S], within the limits.

        If none is found within the limits, some that miss them.
        """
        prices = self._prices
        if self._priced and not self._first:
            chosen = rng.choice(len(prices), min(_TRIED, len(prices)), replace=False)
            prices = prices[chosen] * rng.lognormal(0.0, 0.5, (len(chosen), prices.shape[1]))
        fronts = [self._front(table, price) for price in prices]
        if not self._priced:
            return fronts[0]
        inside = [rows[self._within(rows)] for rows in fronts]
        useful = prices[[len(rows) > 0 for rows in inside]]
        if not len(useful):
            return np.unique(np.concatenate(fronts), axis=0)
        self._prices = useful if self._first else np.concatenate([useful, self._prices])[:_KEPT]
        self._first = False
        return np.unique(np.concatenate(inside), axis=0)

    def _ladder(self) -> Floats:
        """Return [K, D] prices to begin with: none, all alike, and each alone."""
        D = len(self._priced)
        rungs = [np.zeros(D)]
        for price in _LADDER if D else ():
            rungs.append(np.full(D, price))
            if 1 < D <= _SINGLE:
                rungs += list(price * np.eye(D))
        return np.array(rungs)

    def _front(self, table: Floats, price: Floats) -> Ints:
        """Return the front of the known objective and of loss + price times what is priced."""
        whole, known = self._all, self._known
        linked = whole.pair_values[..., self._loss]
        rate = (
            price * self._spans(table[..., None], linked[..., None])[0] / self._span[self._priced]
        )
        values = np.stack([whole.values[..., known], table], axis=2)
        pairs = np.stack([whole.pair_values[..., known], linked], axis=3)
        values[..., 1] += whole.values[..., self._priced] @ rate
        pairs[..., 1] += whole.pair_values[..., self._priced] @ rate
        upper = np.array([whole.upper[known], np.inf])
        problem = Additive(
            whole.allowed, values, whole.edges, pairs, whole.pair_allowed, upper, n_objectives=2
        )
        try:
            return eliminate(problem, eps=_EPS).rows
        except ProblemError:  # edges too entangled: each end bears half of their average
            for side in (0, 1):
                share = 0.5 * pairs.mean(axis=2 - side)
                np.add.at(values, whole.edges[:, side], share)
            x, y = np.ascontiguousarray(np.moveaxis(values, 2, 0))
            return sweep_hull(x, y, whole.allowed, n=_POINTS).rows

    def _within(self, rows: Ints) -> Bools:
        """Return which of ``rows`` [P, V] keep all limits."""
        whole = self._all
        sums = add_up(whole.values, whole.edges, whole.pair_values, rows)
        return np.asarray((sums <= whole.upper + 1e-12 * self._span).all(axis=1), np.bool_)

    def _spans(self, values: Floats, pairs: Floats) -> Floats:
        """Return [D] how far sums over values [V, S, D] and pairs [E, S, S, D] may range."""
        fine = self._all.allowed[:, :, None]
        high = np.where(fine, values, -np.inf).max(axis=1)
        low = np.where(fine, values, np.inf).min(axis=1)
        span: Floats = (high - low).sum(axis=0) + np.ptp(pairs, axis=(1, 2)).sum(axis=0)
        return np.where(span > 0, span, 1.0)
