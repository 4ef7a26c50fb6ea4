"""Axes of values that span decades or pass through zero."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mpsearch.stats.digits import number

_NARROW = 30.0  # ratio of values up to which a linear axis shows all of them
_DECADES = 1e-3  # of the largest value: below it, a symlog axis is linear
_PADDING = 0.06


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values stand on an axis.

    Attributes:
        kind: ``symlog`` is linear within ±``threshold`` and logarithmic beyond.
        threshold: A power of ten.
    """

    kind: Literal["linear", "log", "symlog"] = "linear"
    threshold: float = 1.0

    def place(self, value: float) -> float:
        """Return the coordinate of ``value``."""
        if self.kind == "linear":
            return value
        if self.kind == "log":
            return math.log10(value)
        size = abs(value) / self.threshold
        return math.copysign(size if size <= 1 else 1 + math.log10(size), value)

    def value(self, place: float) -> float:
        """Return the value that stands at coordinate ``place``."""
        if self.kind == "linear":
            return place
        if self.kind == "log":
            return float(10.0**place)
        size = abs(place)
        return math.copysign(self.threshold * (size if size <= 1 else 10.0 ** (size - 1)), place)

    def error(self, value: float, stderr: float) -> tuple[float, float]:
        """Return how far one standard error reaches below and above ``value``, in coordinates."""
        at = self.place(value)
        low = value - stderr
        if self.kind == "log":
            low = max(low, value / 10)
        return at - self.place(low), self.place(value + stderr) - at

    def ticks(self, low: float, high: float) -> list[tuple[float, str]]:
        """Return (coordinate, text) of the ticks between coordinates; a linear axis finds its own."""
        if self.kind == "linear":
            return []
        found = []
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [
                (self.place(value), number(value, 1))
                for value in self._steps(factors)
                if low <= self.place(value) <= high
            ]
            if len(found) >= 4:
                break
        return found

    def _steps(self, factors: Iterable[int]) -> list[float]:
        if self.kind == "log":
            return [f * 10.0**k for k in range(-12, 13) for f in factors]
        positive = [f * self.threshold * 10.0**k for k in range(8) for f in factors]
        return [*(-value for value in reversed(positive)), 0.0, *positive]


def choose_scale(values: Sequence[float], errors: Sequence[float] = ()) -> Scale:
    """Return the scale on which ``values`` can be told apart.

    Linear where they are of one size; logarithmic where all are positive and within three decades; else
    symlog, linear below a thousandth of the largest, or below the usual standard error.
    """
    sizes = np.abs(np.asarray(values, np.float64))
    if not sizes.size or not sizes.max():
        return Scale()
    top, low = float(sizes.max()), float(np.quantile(sizes, 0.1))
    if top <= _NARROW * low:
        return Scale()
    if min(values) > top * _DECADES:
        return Scale("log")
    noise = float(np.median(errors)) if len(errors) else 0.0
    threshold = min(max(top * _DECADES, noise), top / 10)
    return Scale("symlog", 10.0 ** math.floor(math.log10(threshold)))


def padded(places: Iterable[float], padding: float = _PADDING) -> tuple[float, float]:
    """Return the ends of an axis that shows all of ``places`` with some room."""
    known = list(places) or [0.0, 1.0]
    low, high = min(known), max(known)
    room = padding * (high - low) or 0.5 * abs(high) or 1.0
    return low - room, high + room
