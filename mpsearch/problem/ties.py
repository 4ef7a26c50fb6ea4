"""Which of several measured points is to be preferred, when losses are noisy.

Losses that differ by less than the error of their difference are equal; among equals the cheaper one is
taken. On the same samples the error of a difference is far smaller than that of either loss, so
whoever has the samples gives a paired difference. A loss that is itself uncertain is not equal to one that
is known well: what is forgiven is no more than twice the latter's own error, or a thousandth.
"""

from collections.abc import Callable, Iterable, Sequence

from mpsearch.problem.front import Point
from mpsearch.stats.estimates import Estimate

Difference = Callable[[Point, Point], Estimate]
"""Loss of the first point minus that of the second."""

COSTS = ("latency_us", "weight_bytes")
"""What decides between equal losses, in this order."""

_OWN = 2.0  # of the better known loss's own error that are forgiven at most
_NEGLIGIBLE = 1e-3  # of a nat, or of an output's variance: forgiven whatever the error
_BEATEN = 1.96  # standard errors within which a loss is no better: two that are drawn alike differ by chance


def unpaired(first: Point, second: Point) -> Estimate:
    """Return the difference of two losses as if they were of different samples: its error is an upper bound."""
    one, other = first.value("loss"), second.value("loss")
    return Estimate(one.mean - other.mean, (one.stderr**2 + other.stderr**2) ** 0.5)


def mean_loss(point: Point) -> float:
    """Return the mean loss of a point, as measured where it was."""
    return point.value("loss").mean


def prefer(
    points: Sequence[Point],
    difference: Difference = unpaired,
    *,
    judge: Callable[[Point], float] = mean_loss,
) -> Point:
    """Return the cheapest of the points whose loss is the least, or equal to it within one standard error.

    Cheapest by latency, then by size, then by loss. One standard error is the rule of Breiman et al. 1984 (CART) for
    the simplest of models that are as good.

    Args:
        points: At least one.
        difference: Of two points' losses.
        judge: What makes a loss the least: its mean, or an upper bound of it.
    """
    least = min(points, key=judge)
    equal = [p for p in points if p is least or no_higher(p, least, difference)]
    return min(equal, key=cheapness)


def find_better(
    point: Point, rivals: Iterable[Point], difference: Difference = unpaired
) -> Point | None:
    """Return a rival that costs no more and one cost less, at no higher loss beyond the error; None if none does."""
    costs = [cost for cost in COSTS if cost in point.predicted or cost in point.measured]
    mine = [point.value(cost).mean for cost in costs]
    better = []
    for rival in rivals:
        theirs = [rival.value(cost).mean for cost in costs]
        cheaper = all(a <= b for a, b in zip(theirs, mine, strict=True)) and theirs != mine
        if cheaper:
            more = difference(rival, point)
            if more.mean <= _forgiven(more, point, _BEATEN):
                better.append(rival)
    return min(better, key=cheapness, default=None)


def no_higher(point: Point, other: Point, difference: Difference = unpaired) -> bool:
    """Whether the loss of ``point`` is lower than the other's, or equal to it within one standard error."""
    more = difference(point, other)
    return more.mean <= _forgiven(more, other, 1.0)


def _forgiven(more: Estimate, known: Point, errors: float) -> float:
    """What a loss may lie above the ``known`` one and still be equal: so many errors of the difference ``more``."""
    return min(errors * more.stderr, max(_OWN * known.value("loss").stderr, _NEGLIGIBLE))


def cheapness(point: Point) -> tuple[float, ...]:
    """Return what points are ordered by, the cheapest first: latency, then size, then loss."""
    known = [cost for cost in COSTS if cost in point.predicted or cost in point.measured]
    return (*(point.value(cost).mean for cost in known), point.value("loss").mean)
