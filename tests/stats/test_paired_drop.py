import numpy as np
import pytest
from scipy.stats import binom

from mpsearch.errors import DataError
from mpsearch.stats.paired_drop import judge_drop
from mpsearch.stats.paired_proportions import p_value, upper_bound


def chance(n: int, lost: int, won: int, p: float, q: float) -> float:
    """Of ``lost`` and ``won`` discordant pairs among n, whose probabilities are p and q."""
    return float(binom.pmf(won, n, q) * binom.pmf(lost, n - won, p / (1 - q)))


@pytest.mark.parametrize("n", [15, 60])
@pytest.mark.parametrize(
    ("p", "q"), [(0.01, 0.0), (0.05, 0.0), (0.06, 0.05), (0.03, 0.02), (0.1, 0.2), (0.3, 0.25)]
)
def test_a_true_drop_is_refuted_no_more_often_than_stated(n: int, p: float, q: float) -> None:
    refuted = 0.0
    for won in range(n + 1):
        for lost in range(n - won + 1):
            weight = chance(n, lost, won, p, q)
            if weight > 1e-7 and p_value(n, lost, won, drop=p - q) <= 0.05:
                refuted += weight
    assert refuted <= 0.05


def test_the_p_value_is_the_largest_tail_over_the_nuisance() -> None:
    n, lost, won, drop = 12, 1, 0, 0.25

    def order(a: int, b: int) -> float:
        """Tango's score, its nuisance found by maximising the likelihood on a grid."""
        q = np.linspace(0, (1 - drop) / 2, 20001)
        with np.errstate(divide="ignore"):
            terms = [
                (a, np.log(q + drop)),
                (b, np.log(q)),
                (n - a - b, np.log(np.maximum(1e-300, 1 - drop - 2 * q))),
            ]
        fit = q[np.argmax(sum(k * term for k, term in terms if k))]
        return (a - b - n * drop) / np.sqrt(n * (2 * fit + drop * (1 - drop)))

    pairs = [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]
    tail = [pair for pair in pairs if order(*pair) <= order(lost, won) + 1e-6]
    worst = max(
        sum(chance(n, a, b, q + drop, q) for a, b in tail)
        for q in np.linspace(0, (1 - drop) / 2, 200)[:-1]
    )
    assert p_value(n, lost, won, drop=drop) == pytest.approx(worst + 0.001, rel=0.02)


def test_where_nothing_changes_the_bound_is_near_that_of_no_event() -> None:
    for n in (20, 100, 1000):
        one_sided = 1 - 0.05 ** (1 / n)  # Clopper-Pearson for no event
        assert one_sided <= upper_bound(n, 0, 0, confidence=0.95) <= 1.03 * one_sided


def test_with_many_pairs_the_bound_is_the_normal_one() -> None:
    n, lost, won = 20_000, 900, 700
    share = (lost - won) / n
    stderr = np.sqrt(((lost + won) / n - share**2) / n)
    assert upper_bound(n, lost, won, confidence=0.95) == pytest.approx(
        share + 1.645 * stderr, rel=0.02
    )


@pytest.mark.parametrize(("n", "sigma", "least"), [(60, 0.0, 0.94), (200, 1.0, 0.91)])
def test_the_bound_of_a_mean_covers_about_as_often_as_stated(
    n: int, sigma: float, least: float
) -> None:
    rng = np.random.default_rng([7, n])
    covered = 0
    for _ in range(2000):
        if sigma:
            difference = rng.lognormal(0, sigma, n) - np.exp(sigma**2 / 2)  # few change much
        else:
            difference = rng.normal(0, 1, n)
        covered += judge_drop(difference, np.zeros(n), max_drop=0.0).upper >= 0
    assert covered / 2000 >= least


def test_a_small_drop_is_kept_and_a_large_one_broken() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random(2000) < 0.9).astype(float)
    worse = scores.copy()
    worse[np.flatnonzero(scores)[:100]] = 0
    assert judge_drop(scores, scores, max_drop=0.01).verdict == "kept"
    assert judge_drop(scores, worse, max_drop=0.01).verdict == "broken"
    assert judge_drop(scores, worse, max_drop=0.2).verdict == "kept"


def test_few_equal_samples_decide_nothing_and_about_300_would() -> None:
    test = judge_drop(np.ones(20), np.ones(20), max_drop=0.01)
    assert test.verdict == "undecided"
    assert test.samples_needed == pytest.approx(300, rel=0.06)


def test_a_rise_of_what_should_be_low_is_a_drop() -> None:
    rng = np.random.default_rng(3)
    nll = rng.exponential(1, 500)
    test = judge_drop(nll, nll + 0.1, max_drop=0.05, higher_is_better=False)
    assert test.drop == pytest.approx(0.1)
    assert test.verdict == "broken"
    assert judge_drop(nll, nll + 0.1, max_drop=0.05).verdict == "kept"


@pytest.mark.parametrize(("drop", "verdict"), [(0.012, "kept"), (0.024, "broken")])
def test_the_stated_number_of_samples_would_decide(drop: float, verdict: str) -> None:
    rng = np.random.default_rng(2)
    difference = rng.normal(0.0, 0.2, 400)
    difference += drop - difference.mean()
    first = judge_drop(difference, np.zeros(400), max_drop=0.02)
    assert first.verdict == "undecided"
    assert first.samples_needed is not None
    again = np.tile(difference, first.samples_needed // 400 + 1)
    assert judge_drop(again, np.zeros(len(again)), max_drop=0.02).verdict == verdict
    fewer = np.tile(difference, max(1, first.samples_needed // 800))
    assert judge_drop(fewer, np.zeros(len(fewer)), max_drop=0.02).verdict == "undecided"


def test_a_drop_at_the_limit_is_never_decided() -> None:
    difference = np.array([0.0, 0.5] * 10)
    assert judge_drop(difference, np.zeros(20), max_drop=0.25).samples_needed is None


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(DataError, match="equally long"):
        judge_drop([1.0, 2.0], [1.0], max_drop=0.1)
