"""Ranges of tensors: observed over streamed batches, or taken from one tensor."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError
from mpsearch.notations import Estimator, parse_estimator
from mpsearch.numerics import dispatch
from mpsearch.numerics.grids import as_float32
from mpsearch.numerics.histograms import BINS, choose_clip, count_bins
from mpsearch.numerics.range import Range
from mpsearch.numerics.scales import choose_affine, choose_steps, tensor_scale
from mpsearch.schemes import Spec


class RangeObserver:
    """Accumulates what calibration batches show of one tensor.

    The order of batches matters to the estimators that follow them, to no other.
    """

    __slots__ = ("_counts", "_extremes", "high", "low", "name")

    def __init__(self, *, name: str = "tensor", histogram: bool = True) -> None:
        """Start with nothing seen.

        Args:
            name: What an error calls the tensor.
            histogram: Whether to count values (half a megabyte) for specs whose range is not amax.
        """
        self.name = name
        self.low = 0.0
        self.high = 0.0
        self._extremes: list[tuple[float, float]] = []
        self._counts = torch.zeros(BINS if histogram else 0, dtype=torch.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """[65536] elements seen in each bin (:func:`mpsearch.numerics.histograms.count_bins`); empty without."""
        return np.asarray(self._counts.numpy())

    def observe(self, x: Tensor) -> None:
        """Add a batch of any shape.

        Raises:
            NumericsError: It holds NaN or Inf.
        """
        x = as_float32(x.detach())
        if x.numel() == 0:
            return
        low, high = finite_range(x, self.name)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._extremes.append((low, high))
        if len(self._counts):
            self._counts += count_bins(x)

    def merge(self, other: "RangeObserver") -> None:
        """Add all that ``other`` has seen, after this one.

        Raises:
            SchemeError: Only one of the two counts values.
        """
        if len(self._counts) != len(other._counts):
            raise SchemeError(
                f"observers of {self.name!r} must both have a histogram or both none to be merged"
            )
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._extremes += other._extremes
        self._counts += other._counts

    def finish(self, spec: Spec) -> Range:
        """Return the range, with the scale that ``spec`` needs of the whole tensor.

        Raises:
            SchemeError: The spec's estimator needs a histogram, and none was kept.
        """
        found, estimator = make_range(self.low, self.high, spec), parse_estimator(spec.estimator)
        if found.scale == 0 or estimator.name == "amax":
            return found
        if estimator.needs_batches:
            cut = make_range(*_follow(self._extremes, estimator), spec)
            return replace(found, scale=cut.scale, zero_point=cut.zero_point)
        if not len(self._counts):
            raise SchemeError(
                f"estimator {spec.estimator!r} needs an observer with histogram=True, "
                f"but that of {self.name!r} has none; without one only amax can be chosen"
            )
        clip = choose_clip(self._counts, self.low, self.high, spec)
        cut = make_range(*clip, spec)
        return replace(found, scale=cut.scale, zero_point=cut.zero_point)


def _follow(extremes: Sequence[tuple[float, float]], estimator: Estimator) -> tuple[float, float]:
    """Return (low, high) of batches' extremes: averaged with a momentum, or of the last batches."""
    if estimator.name == "history":
        last = extremes[-int(estimator.value) :]
        return min(low for low, _ in last), max(high for _, high in last)
    low, high = extremes[0]
    for own_low, own_high in extremes[1:]:
        low = estimator.value * low + (1 - estimator.value) * own_low
        high = estimator.value * high + (1 - estimator.value) * own_high
    return low, high


def finite_range(x: Tensor, name: str) -> tuple[float, float]:
    """Return the smallest and the largest value of ``x``, which must not be empty.

    Raises:
        NumericsError: ``x`` holds NaN or Inf; the message names it.
    """
    if dispatch.can_run(x):
        low, high = dispatch.find_extremes(x)
    else:
        low, high = (float(value) for value in torch.aminmax(x))
    check_finite(low - high, name)
    return low, high


def check_finite(amax: float, name: str) -> None:
    """Raise if ``amax``, the largest magnitude of the tensor called ``name``, is NaN or Inf.

    Raises:
        NumericsError: It is; the message names the tensor.
    """
    if not abs(amax) < torch.inf:  # NaN is not less than anything
        raise NumericsError(f"tensor {name!r} must be finite, but it holds NaN or Inf")


def make_range(low: float, high: float, spec: Spec) -> Range:
    """Return the range of a tensor that spans [low, high] and 0, its scale by amax.

    A spec whose estimator needs the data gets its scale from :meth:`RangeObserver.finish`.
    """
    amax = max(0.0, -low, high)
    if spec.tensor_scale:
        return Range(amax, low, high, tensor_scale(amax, spec))
    if spec.is_cast or spec.granularity != "tensor":
        return Range(amax, low, high)
    if not spec.symmetric:
        step, zero = choose_affine(torch.tensor(low), torch.tensor(high), spec)
        return Range(amax, low, high, float(step), int(zero))
    return Range(amax, low, high, float(choose_steps(torch.tensor(amax), spec)))
