"""How well predictions order what was measured: rank correlations with confidence intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpsearch.stats.estimates import Bools, Floats


@dataclass(frozen=True, slots=True)
class Correlation:
    """A rank correlation and its 95 % confidence interval.

    Attributes:
        value: The correlation; 0 where it is not defined.
        low: Lower end of the interval.
        high: Upper end.
        n: Plans that it is over.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rank correlations of predictions with measurements over one set of plans.

    Attributes:
        spearman: Over all plans.
        kendall: Over all plans.
        spearman_best: Over the fifth of the plans that measured best.
        kendall_best: Over the same.
    """

    spearman: Correlation
    kendall: Correlation
    spearman_best: Correlation
    kendall_best: Correlation


def rank_agreement(
    predicted: Floats, measured: Floats, *, best: float = 0.2, seed: int = 0, n_draws: int = 200
) -> Ranking:
    """Compare two [P] arrays of losses, overall and among the plans that measured best.

    Args:
        predicted: What a table says.
        measured: What was measured.
        best: Share of the plans that counts as best.
        seed: Seed of the bootstrap.
        n_draws: Bootstrap draws of plans for the intervals.
    """
    n_best = max(3, round(best * len(measured)))
    chosen = np.argsort(measured, kind="stable")[:n_best]
    few, few_measured = predicted[chosen], measured[chosen]
    return Ranking(
        _correlate(_spearman, predicted, measured, seed, n_draws),
        _correlate(_kendall, predicted, measured, seed, n_draws),
        _correlate(_spearman, few, few_measured, seed, n_draws),
        _correlate(_kendall, few, few_measured, seed, n_draws),
    )


def saturated(losses: Floats, ceiling: float) -> Bools:
    """Return which of ``losses`` [P] are above half of ``ceiling``, where losses stop to grow.

    Args:
        losses: Measured losses.
        ceiling: Loss of the lowest precision everywhere.
    """
    return losses > 0.5 * ceiling


def _correlate(
    measure: Callable[[Floats, Floats], float],
    predicted: Floats,
    measured: Floats,
    seed: int,
    n_draws: int,
) -> Correlation:
    n = len(measured)
    if n < 3:
        return Correlation(0.0, -1.0, 1.0, n)
    value = measure(predicted, measured)
    rng = np.random.default_rng([seed, n])
    draws = np.array(
        [
            measure(predicted[rows], measured[rows])
            for rows in (rng.integers(0, n, n) for _ in range(n_draws))
        ]
    )
    low, high = np.quantile(draws, [0.025, 0.975])
    return Correlation(value, float(min(low, value)), float(max(high, value)), n)


def _spearman(a: Floats, b: Floats) -> float:
    from scipy import stats  # half a second that reading a ranking need not spend

    ranks = stats.rankdata(a), stats.rankdata(b)
    if ranks[0].std() == 0 or ranks[1].std() == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _kendall(a: Floats, b: Floats) -> float:
    from scipy import stats

    value = float(stats.kendalltau(a, b).statistic)
    return value if np.isfinite(value) else 0.0
