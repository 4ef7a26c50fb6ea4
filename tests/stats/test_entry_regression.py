import numpy as np

from mpsearch.stats.entry_regression import fit_law

KINDS = np.array([0, 0, 0, 1, 1])


def draw(seed: int, *, group: float, kind: float, scatter: float, n: int = 60) -> tuple:
    rng = np.random.default_rng(seed)
    x = rng.normal(-5, 2, (n, 5))
    shift = (
        1.3
        + np.array([0, 0.2, -0.1, 0.1, 0])
        + group * rng.standard_normal((n, 1))
        + kind * rng.standard_normal((n, 2))[:, KINDS]
        + scatter * rng.standard_normal((n, 5))
    )
    known = rng.random((n, 5)) < 0.4
    return x, np.exp(x + shift), known


def dense_posterior(
    x: np.ndarray, shift: np.ndarray, known: np.ndarray, deviations: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary Gaussian regression with one covariance matrix over all entries."""
    group, kind, scatter = deviations
    g, s = (index.ravel() for index in np.indices(x.shape))
    slope = x.ravel() - x[known].mean()
    same = g[:, None] == g
    covariance = (
        10.0**2
        + 0.2**2 * (s[:, None] == s)
        + 0.1**2 * np.outer(slope, slope)
        + same * (group**2 + kind**2 * (KINDS[s][:, None] == KINDS[s]))
    )
    seen = known.ravel()
    inner = covariance[np.ix_(seen, seen)] + scatter**2 * np.eye(seen.sum())
    gain = np.linalg.solve(inner, covariance[seen]).T
    mean = gain @ shift.ravel()[seen]
    variance = np.diag(covariance) - (gain * covariance[:, seen]).sum(axis=1) + scatter**2
    return mean.reshape(x.shape), variance.reshape(x.shape)


def test_the_posterior_is_that_of_dense_regression() -> None:
    x, truth, known = draw(0, group=0.3, kind=0.8, scatter=0.3, n=12)
    law = fit_law(x, truth, known, KINDS)
    found = []
    for group in (0.05, 0.3, 1.0):
        for kind in (0.05, 0.3, 0.8):
            for scatter in (0.3, 0.5, 0.8):
                mean, variance = dense_posterior(
                    x, np.log(truth) - x, known, (group, kind, scatter)
                )
                off = np.abs(law.logarithms - x - mean).max()
                found.append(off + np.abs(law.deviations**2 - variance).max())
    assert min(found) < 1e-4


def test_a_measured_sibling_of_the_same_kind_tells_most() -> None:
    x, truth, _ = draw(1, group=0.05, kind=0.8, scatter=0.1)
    known = np.zeros(x.shape, np.bool_)
    known[:, 3] = True
    known[:20, 4] = True
    law = fit_law(x, truth, known, KINDS)
    error = np.abs(law.logarithms - np.log(truth))
    assert error[20:, 4].mean() < 0.4 * error[:, :3].mean()
    assert law.deviations[20:, 4].max() < 0.7 * law.deviations[:, :3].min()


def test_deviations_cover_what_was_not_measured() -> None:
    inside = []
    for seed in range(20):
        x, truth, known = draw(seed, group=0.4, kind=0.4, scatter=0.4)
        law = fit_law(x, truth, known, KINDS)
        z = (law.logarithms - np.log(truth)) / law.deviations
        inside.append((np.abs(z[~known]) < 1.96).mean())
    assert 0.92 <= np.mean(inside) <= 0.98


def test_too_little_leaves_the_prior() -> None:
    x, truth, known = draw(2, group=0.3, kind=0.3, scatter=0.3)
    known[:] = False
    known[0, 0] = True
    law = fit_law(x, truth, known, KINDS)
    np.testing.assert_array_equal(law.logarithms, x)
    np.testing.assert_array_equal(law.deviations, 1.0)
