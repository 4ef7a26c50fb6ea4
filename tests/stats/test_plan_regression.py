import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime

from mpsearch.stats.plan_regression import Bend, fit_plans
from mpsearch.stats.rank_correlation import rank_agreement

Array = NDArray[np.float64]
GROUPS, SCHEMES, LIMIT = 20, 4, 1.0
KINDS = np.array([0, 0, 0, 1])


def entries(seed: int) -> Array:
    values = np.exp(np.random.default_rng(seed).normal(-8, 2, (GROUPS, SCHEMES)))
    values[:, 0] = 0
    return np.minimum(values, 0.1)


def draw(seed: int, count: int) -> NDArray[np.int64]:
    """Plans of few and of many lowered groups."""
    rng = np.random.default_rng([seed, 5])
    lowered = rng.random((count, 1)) > rng.random((count, GROUPS))
    return np.where(lowered, rng.integers(1, SCHEMES, (count, GROUPS)), 0).astype(np.int64)


def sums(values: Array, plans: NDArray[np.int64]) -> Array:
    return np.asarray(values[np.arange(GROUPS), plans].sum(axis=1))


def fit(values: Array, plans: NDArray[np.int64], losses: Array) -> Array:
    return fit_plans(values, np.full(values.shape, 0.2), KINDS, plans, losses, LIMIT)


@pytest.mark.parametrize("power", [0.3, 0.7, 1.0])
def test_what_is_bent_is_straightened_again(power: float) -> None:
    bend, losses = Bend(power, 1e-3), np.logspace(-6, 0, 7)
    bent = bend.apply(losses)
    found, slopes = bend.undo(bent)
    np.testing.assert_allclose(found, losses, rtol=1e-9)
    np.testing.assert_allclose(bend.apply(-losses), -bent)
    for z, slope in zip(bent, slopes, strict=True):
        wanted = approx_fprime(
            np.log([z]), lambda x: float(np.log(bend.undo(np.exp(x))[0][0])), 1e-6
        )
        assert slope == pytest.approx(wanted[0], rel=1e-4)


def test_small_losses_add_up_as_they_are() -> None:
    losses = np.logspace(-9, -7, 5)
    np.testing.assert_allclose(Bend(0.3, 1e-3).apply(losses), losses, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_losses_that_grow_faster_than_their_sum_are_ordered(seed: int) -> None:
    values, bend = entries(seed), Bend(0.4, 1e-4)
    plans = draw(seed, 210)
    losses, _ = bend.undo(sums(bend.apply(values), plans) + 1e-12)
    fitted = fit(values, plans[:10], losses[:10])
    before = rank_agreement(sums(values, plans[10:]), losses[10:])
    after = rank_agreement(sums(fitted, plans[10:]), losses[10:])
    assert 1 - after.spearman.value < 0.3 * (1 - before.spearman.value)
    assert after.spearman_best.value > before.spearman_best.value - 0.01


@pytest.mark.parametrize("seed", range(3))
def test_what_adds_up_stays(seed: int) -> None:
    values, plans = entries(seed), draw(seed, 30)
    fitted = fit(values, plans, sums(values, plans) + 1e-12)
    kept = values > 0
    assert np.abs(np.log(fitted[kept] / values[kept])).max() < 0.1
    assert (fitted[~kept] == 0).all()


def test_plans_of_large_losses_do_not_reorder_small_entries() -> None:
    values = entries(7)
    small = values < 1e-4
    plans = draw(7, 40)
    losses = sums(values, plans) + 1e-12
    rng = np.random.default_rng(7)
    large = losses > 100 * np.where(small, values, 0)[np.arange(GROUPS), plans].sum(axis=1)
    wild = np.where(large, losses * rng.lognormal(0, 0.5, len(losses)), losses)
    fitted = fit(values, plans, wild)
    kept = small & (values > 0)
    assert rank_agreement(fitted[kept], values[kept]).spearman.value > 0.99


def test_a_scheme_that_counts_more_in_plans_is_found() -> None:
    values, plans = entries(9), draw(9, 60)
    truth = values * np.array([1.0, 1.0, 1.8, 1.0])
    fitted = fit(values, plans, sums(truth, plans) + 1e-12)
    ratio = np.log(fitted[:, 1:] / values[:, 1:]).mean(axis=0)
    assert 0.6 * np.log(1.8) < ratio[1] - ratio[[0, 2]].mean() < 1.2 * np.log(1.8)


def test_the_sum_of_the_median_plan_is_its_loss() -> None:
    values, plans = entries(11), draw(11, 31)
    losses = 3.0 * sums(values, plans) + 1e-12
    ratios = sums(fit(values, plans, losses), plans) / losses
    assert np.median(ratios[losses > 1e-6]) == pytest.approx(1, abs=0.02)


def test_too_few_plans_change_nothing() -> None:
    values, plans = entries(12), draw(12, 6)
    losses = np.array([1e-3, 1e-2, 1e-2, -1e-3, 0.0, -1.0])
    np.testing.assert_array_equal(fit(values, plans, losses), values)
