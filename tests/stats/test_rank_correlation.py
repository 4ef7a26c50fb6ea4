import numpy as np
import pytest
from scipy import stats

from mpsearch.stats.rank_correlation import rank_agreement, saturated


def test_correlations_are_scipys_over_all_and_over_the_best_fifth() -> None:
    rng = np.random.default_rng(0)
    measured = rng.gamma(2, size=100)
    predicted = measured + rng.normal(0, 0.5, 100)
    best = np.argsort(measured)[:20]
    found = rank_agreement(predicted, measured)
    assert found.spearman.value == pytest.approx(stats.spearmanr(predicted, measured).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(predicted, measured).statistic)
    expected = stats.spearmanr(predicted[best], measured[best]).statistic
    assert found.spearman_best.value == pytest.approx(expected)
    assert found.spearman_best.n == 20


def test_intervals_hold_the_value_and_narrow_with_more_plans() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (30, 300):
        measured = rng.normal(size=n)
        found = rank_agreement(measured + rng.normal(size=n), measured).spearman
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < 0.6 * widths[0]


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    population = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 40_000)
    truth = stats.spearmanr(population).statistic
    inside = 0
    for _ in range(40):
        rows = population[rng.integers(0, len(population), 80)]
        found = rank_agreement(rows[:, 0], rows[:, 1], n_draws=40).spearman
        inside += found.low <= truth <= found.high
    assert inside >= 32


def test_predictions_without_order_correlate_with_nothing() -> None:
    found = rank_agreement(np.ones(10), np.arange(10.0))
    assert found.spearman.value == found.kendall.value == 0


def test_too_few_plans_say_nothing() -> None:
    found = rank_agreement(np.array([1.0, 2.0]), np.array([1.0, 2.0])).spearman
    assert (found.low, found.high, found.n) == (-1.0, 1.0, 2)


def test_plans_above_half_of_the_ceiling_are_saturated() -> None:
    assert saturated(np.array([0.1, 0.5, 0.6]), 1.0).tolist() == [False, False, True]
