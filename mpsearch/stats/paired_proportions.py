"""Exact confidence bounds for the difference of two paired proportions.

Of n samples, ``lost`` are right under the first model only, ``won`` under the second only. The drop is the
difference of the two probabilities. Exact unconditional test: samples are ordered by the score statistic
(Tango 1998), and its tail is summed for the worst value of the nuisance parameter, the probability
of ``won``, within a confidence region of it (Berger & Boos 1994), whose own risk is added.
"""

import numpy as np
from scipy.special import betaincinv
from scipy.stats import binom

from mpsearch.stats.estimates import Floats, Ints

_NUISANCE_RISK = 0.001  # of the nuisance parameter's confidence region; part of the stated risk
_GRID = 16  # nuisance values that are tried, and again around the worst
_REACH = 8.0  # standard deviations beyond which the tail is taken as empty: less than 1e-14
_HALVINGS = 40
_PRECISION = 1e-3  # of a bound, relative to its distance from the drop that was seen


def upper_bound(n: int, lost: int, won: int, *, confidence: float) -> float:
    """Return the upper confidence bound of the drop: what lies above is refuted at ``confidence``.

    Args:
        n: Samples.
        lost: Right under the first model only.
        won: Right under the second only.
        confidence: Of this one-sided bound.
    """
    risk = 1 - confidence
    low, high = (lost - won) / n, 1.0
    near = low + (4 * np.sqrt(lost + won + 1) + 8) / n  # nearly always beyond the bound
    if near < 1 and p_value(n, lost, won, drop=near) <= risk:
        high = near
    for _ in range(_HALVINGS):
        if high - low <= _PRECISION * (high - (lost - won) / n):
            break
        middle = (low + high) / 2
        if p_value(n, lost, won, drop=middle) > risk:
            low = middle
        else:
            high = middle
    return high


def p_value(n: int, lost: int, won: int, *, drop: float) -> float:
    """Return the largest chance of so small a drop, or a smaller one, if the true one is ``drop``."""
    if drop >= 1:
        return 0.0
    low, high = _nuisance_region(n, won, drop)
    grid = np.linspace(low, high, _GRID)
    tails = _tails(n, lost, won, drop, grid)
    step, worst = grid[1] - grid[0], grid[int(tails.argmax())]
    finer = np.clip(np.linspace(worst - step, worst + step, _GRID), low, high)
    return min(
        1.0, float(max(tails.max(), _tails(n, lost, won, drop, finer).max())) + _NUISANCE_RISK
    )


def _nuisance_region(n: int, won: int, drop: float) -> tuple[float, float]:
    """Clopper-Pearson region of the probability of ``won``, within what ``drop`` leaves possible."""
    half = _NUISANCE_RISK / 2
    low = float(betaincinv(won, n - won + 1, half)) if won else 0.0
    high = float(betaincinv(won + 1, n - won, 1 - half)) if won < n else 1.0
    least, most = max(0.0, -drop), (1 - drop) / 2
    return min(max(low, least), most), max(min(high, most), least)


def _tails(n: int, lost: int, won: int, drop: float, nuisance: Floats) -> Floats:
    """Return the chance of an order at most that of (lost, won), for each ``nuisance`` [K] chance of won."""
    spread = _REACH * np.sqrt(n * nuisance * (1 - nuisance)) + _REACH
    first = int(np.floor(max(0.0, float((n * nuisance - spread).min()))))
    last = int(np.ceil(min(float(n), float((n * nuisance + spread).max()))))
    wins: Ints = np.arange(first, last + 1)
    most = _most_lost(n, wins, drop, _order(n, np.array([lost]), np.array([won]), drop)[0])
    share = np.where(
        nuisance < 1, np.minimum(1.0, (drop + nuisance) / np.maximum(1e-300, 1 - nuisance)), 1.0
    )
    chance = binom.pmf(wins, n, nuisance[:, None]) * np.where(
        most >= 0, binom.cdf(most, n - wins, share[:, None]), 0.0
    )
    tails: Floats = chance.sum(axis=1)
    return tails


def _most_lost(n: int, wins: Ints, drop: float, order: float) -> Ints:
    """Return for each of ``wins`` [W] the most losses whose order is at most ``order``; -1: none."""
    low, high = np.full(len(wins), -1, np.int64), n - wins
    while (low < high).any():
        middle = (low + high + 1) // 2
        inside = _order(n, np.maximum(middle, 0), wins, drop) <= order + 1e-9
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return low


def _order(n: int, lost: Ints, won: Ints, drop: float) -> Floats:
    """Return Tango's score: how far the drop seen is above ``drop``, in standard deviations."""
    b = (2 * n - lost + won) * drop - lost - won
    c = -won * drop * (1 - drop) * 1.0
    q = np.maximum((np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n), max(0.0, -drop))
    variance = n * (2 * q + drop * (1 - drop))
    difference = lost - won - n * drop
    score: Floats = np.where(
        variance > 1e-12 * n, difference / np.sqrt(np.maximum(variance, 1e-300)), difference * 1e6
    )
    return score
