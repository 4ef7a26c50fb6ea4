"""Decisions under noise: does a plan lose more quality than it may?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, skew
from scipy.stats import t as student

from mpsearch.errors import DataError
from mpsearch.stats.estimates import Floats
from mpsearch.stats.paired_proportions import p_value, upper_bound

Verdict = Literal["kept", "broken", "undecided"]
Decides = Callable[[int], bool]
"""Samples -> whether so many would decide, were they like those that were seen."""

_LARGE = 1_000_000  # samples beyond which the normal approximation is trusted
_PRECISION = 0.02  # of the number of samples that would decide


@dataclass(frozen=True, slots=True)
class DropTest:
    """Whether a paired drop of quality stays within what is allowed.

    Attributes:
        drop: Mean of reference minus plan over the samples; where less is better, plan minus reference.
        stderr: Its standard error.
        upper: One-sided upper confidence bound of the drop.
        lower: One-sided lower confidence bound.
        verdict: ``kept``: the drop is within the limit with confidence; ``broken``: it is beyond with
            confidence; ``undecided``: more samples would tell.
        samples: Samples there are.
        samples_needed: About how many would decide if the samples to come are like those seen; 0 when
            decided, None when the drop equals the limit.
    """

    drop: float
    stderr: float
    upper: float
    lower: float
    verdict: Verdict
    samples: int
    samples_needed: int | None


def judge_drop(
    reference: ArrayLike,
    plan: ArrayLike,
    *,
    max_drop: float,
    confidence: float = 0.95,
    higher_is_better: bool = True,
) -> DropTest:
    """Judge the drop of a score from the same samples under reference and plan.

    Scores of 0 and 1 (accuracy): an exact test of matched pairs, see :mod:`mpsearch.stats.paired_proportions`. Others:
    Student's t of the differences, moved outwards where they are skewed towards the bound (Johnson 1978): a
    few samples that change much would otherwise make the bound too low. Of log-normal differences (sigma 1)
    the bound at 95 % covers 90, 92 and 94 % with 60, 200 and 800 samples (86, 90 and 92 % unmoved).

    Args:
        reference: [n] scores of the fp32 model, sample by sample.
        plan: [n] scores of the plan, the same samples in the same order.
        max_drop: The mean drop that is allowed.
        confidence: Of each one-sided bound.
        higher_is_better: Whether a drop is a fall; else (``nll``) it is a rise.

    Raises:
        DataError: The arrays do not pair, have fewer than two samples, or are not finite; or the
            confidence is not within (0.5, 1).
    """
    first, second = np.asarray(reference, np.float64), np.asarray(plan, np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise DataError(
            "a paired test needs two equally long lists of two samples or more, got "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("scores must be finite")
    if not 0.5 < confidence < 1:
        raise DataError(f"`0.5 < confidence < 1` must hold, got {confidence}")
    n = len(first)
    differences = first - second if higher_is_better else second - first
    binary = bool(np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all())
    judge = _judge_pairs if binary else _judge_mean
    lower, upper, decides = judge(differences, max_drop, confidence)
    drop, spread = float(differences.mean()), float(differences.std(ddof=1))
    verdict: Verdict = "undecided"
    if upper <= max_drop:
        verdict = "kept"
    elif lower > max_drop:
        verdict = "broken"
    needed: int | None = 0
    if verdict == "undecided":
        distance = abs(max_drop - drop)
        quantile = float(norm.ppf(confidence))
        guess = math.ceil((quantile * spread / distance) ** 2) if distance else 0
        needed = _least(decides, n + 1, max(n + 1, guess)) if distance else None
    return DropTest(drop, spread / math.sqrt(n), upper, lower, verdict, n, needed)


def _judge_pairs(
    differences: Floats, max_drop: float, confidence: float
) -> tuple[float, float, Decides]:
    """Return lower and upper bound of 0/1 scores, and what would decide."""
    n, risk = len(differences), 1 - confidence
    lost, won = int((differences > 0).sum()), int((differences < 0).sum())

    def decides(size: int) -> bool:
        more, less = (round(count * size / n) for count in (lost, won))
        return (
            p_value(size, more, less, drop=max_drop) <= risk
            or p_value(size, less, more, drop=-max_drop) <= risk
        )

    return (
        -upper_bound(n, won, lost, confidence=confidence),
        upper_bound(n, lost, won, confidence=confidence),
        decides,
    )


def _judge_mean(
    differences: Floats, max_drop: float, confidence: float
) -> tuple[float, float, Decides]:
    """Return lower and upper bound of the mean of any scores, and what would decide."""
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    lean = float(skew(differences)) if spread > 0 else 0.0

    def bounds(size: int) -> tuple[float, float]:
        quantile = float(student.ppf(confidence, size - 1))
        shift = lean * (1 + 2 * quantile**2) / (6 * math.sqrt(size))
        stderr = spread / math.sqrt(size)
        return (
            mean - stderr * (quantile + max(0.0, -shift)),
            mean + stderr * (quantile + max(0.0, shift)),
        )

    def decides(size: int) -> bool:
        lower, upper = bounds(size)
        return upper <= max_drop or lower > max_drop

    return *bounds(len(differences)), decides


def _least(decides: Decides, low: int, guess: int) -> int:
    """Return about the least number from ``low`` on that decides, by doubling and halving."""
    high = guess
    while high < _LARGE and not decides(high):
        low, high = high, 2 * high
    if high >= _LARGE:
        return guess
    while high - low > max(1, int(_PRECISION * high)):
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
