"""Racing: a glance at part of the data before a plan is measured on all of it."""

import math

import numpy as np

from mpsearch.search.measured.archive import Archive
from mpsearch.stats.estimates import Floats, Ints

_FIRST_DEVIATION = 0.5  # of log(loss on part / loss on all), before any pair is known
_BELIEF = 4.0  # pairs that the first deviation counts as


class Race:
    """Glances at plans, and learns from plans then measured in full how far a glance can be trusted.

    Attributes:
        fraction: Of the data that a glance sees.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self._glances: dict[bytes, float] = {}
        self._ratios: list[float] = []

    def look(
        self, archive: Archive, rows: Ints, mean: Floats, deviation: Floats
    ) -> tuple[Floats, Floats]:
        """Return ``mean`` and ``deviation`` [P] of losses after a glance at assignments ``rows`` [P, V].

        The two are joined as logarithms, each weighed by its precision; a glance that is not positive
        changes nothing. Costs ``fraction`` of an evaluation a row.

        Raises:
            Exhausted: The budget does not suffice.
        """
        seen = archive.screen(rows, self.fraction)
        bias, spread = self._trust()
        means, deviations = mean.copy(), deviation.copy()
        for k, (row, loss) in enumerate(zip(rows, seen, strict=True)):
            if loss.mean <= 0 or mean[k] <= 0:
                continue
            self._glances[row.tobytes()] = loss.mean
            own = max(deviation[k] / mean[k], 1e-9) ** -2
            glance = spread**-2
            centre = own * math.log(mean[k]) + glance * (math.log(loss.mean) - bias)
            means[k] = math.exp(centre / (own + glance))
            deviations[k] = means[k] * (own + glance) ** -0.5
        return means, deviations

    def learn(self, rows: Ints, losses: Floats) -> None:
        """Compare the glances at ``rows`` [P, V] with their ``losses`` [P] on all of the data."""
        for row, loss in zip(rows, losses.tolist(), strict=True):
            glance = self._glances.pop(row.tobytes(), None)
            if glance is not None and loss > 0:
                self._ratios.append(math.log(glance / loss))

    def _trust(self) -> tuple[float, float]:
        """Return mean and deviation of log(loss on part / loss on all)."""
        n = len(self._ratios)
        bias = sum(self._ratios) / (n + _BELIEF)
        square = sum((ratio - bias) ** 2 for ratio in self._ratios)
        return bias, float(np.sqrt((square + _BELIEF * _FIRST_DEVIATION**2) / (n + _BELIEF)))
