"""Decisions under noise: does a plan lose more quality than it may?"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm
from scipy.stats import t as student

from mpsearch.errors import DataError


@dataclass(frozen=True, slots=True)
class DropTest:
    """Whether a paired drop of quality stays within what is allowed.

    Attributes:
        drop: Mean of reference minus plan over the samples.
        stderr: Its standard error.
        upper: One-sided upper confidence bound of the drop.
        lower: One-sided lower confidence bound.
        verdict: ``kept``: the drop is within the limit with confidence; ``broken``: it is beyond with
            confidence; ``undecided``: more samples would tell.
        samples: Samples there are.
        samples_needed: About how many would decide if mean and spread stayed; 0 when decided, None when
            the drop equals the limit.
    """

    drop: float
    stderr: float
    upper: float
    lower: float
    verdict: Literal["kept", "broken", "undecided"]
    samples: int
    samples_needed: int | None


def judge_drop(
    reference: ArrayLike, plan: ArrayLike, *, max_drop: float, confidence: float = 0.95
) -> DropTest:
    """Judge the drop of a score, higher is better, from the same samples under reference and plan.

    Scores of 0 and 1 (accuracy): half a count is added to each of the four cells of matched pairs, so
    that a bound exists where no sample differs (Agresti & Min 2005). Others: Student's t of the
    differences.

    Args:
        reference: [n] scores of the fp32 model, sample by sample.
        plan: [n] scores of the plan, the same samples in the same order.
        max_drop: The mean drop that is allowed.
        confidence: Of each one-sided bound.

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
    difference = first - second
    binary = bool(np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all())
    if binary:
        lost, won = float((difference > 0).sum()) + 0.5, float((difference < 0).sum()) + 0.5
        size = n + 2.0
        centre = (lost - won) / size
        spread = math.sqrt(max(0.0, (lost + won) / size - centre**2))
        stderr, quantile = spread / math.sqrt(size), float(norm.ppf(confidence))
    else:
        centre, spread = float(difference.mean()), float(difference.std(ddof=1))
        stderr, quantile = spread / math.sqrt(n), float(student.ppf(confidence, n - 1))
    upper, lower = centre + quantile * stderr, centre - quantile * stderr
    verdict: Literal["kept", "broken", "undecided"] = "undecided"
    needed: int | None = 0
    if upper <= max_drop:
        verdict = "kept"
    elif lower > max_drop:
        verdict = "broken"
    else:
        distance = abs(max_drop - centre)
        z = float(norm.ppf(confidence))
        needed = max(n + 1, math.ceil((z * spread / distance) ** 2)) if distance > 0 else None
    return DropTest(float(difference.mean()), stderr, upper, lower, verdict, n, needed)
