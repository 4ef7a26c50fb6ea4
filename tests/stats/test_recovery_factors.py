"""Factors of recovery are learned where plans tell of them, and believed where none does."""

import numpy as np

from mpsearch.stats.recovery_factors import DENSE, SPARSE, fit_factors, scheme_parts


def test_parts_are_sums_by_scheme() -> None:
    values = np.array([[0.0, 1.0, 2.0], [0.0, 3.0, 4.0], [0.0, 5.0, 6.0]])
    parts = scheme_parts(values, [(0, 1, 2), (2, 2, 1)])
    assert parts.tolist() == [[0, 3, 6], [0, 5, 6]]


def test_factors_are_found_from_plans_that_mix_schemes() -> None:
    rng = np.random.default_rng(0)
    values = np.abs(rng.standard_normal((30, 4)))
    values[:, 0] = 0
    plans = rng.integers(0, 4, (40, 30))
    truth = np.array([0.5, 0.7, 0.2, 0.9])
    parts = scheme_parts(values, plans.tolist())
    found = fit_factors(parts, (parts @ truth).tolist(), [DENSE, DENSE, SPARSE, DENSE])
    np.testing.assert_allclose(found[1:], truth[1:], atol=0.05)
    assert abs(found[0] - DENSE) < 1e-6  # no plan loses anything there


def test_without_plans_what_is_believed_stays() -> None:
    found = fit_factors(np.zeros((0, 2)), [], [DENSE, SPARSE])
    np.testing.assert_allclose(found, [DENSE, SPARSE], atol=1e-6)


def test_factors_stay_between_nothing_and_all() -> None:
    parts = np.array([[1.0, 0.0], [0.0, 1.0]] * 20)
    found = fit_factors(parts, [5.0, -1.0] * 20, [DENSE, SPARSE])
    assert 1 - 1e-9 < found[0] <= 1
    assert 0 < found[1] <= 0.05
