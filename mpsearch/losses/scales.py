"""What squared errors of an output are relative to: the variance of each group of channels of like magnitude.

A detector's boxes run over hundreds of pixels, its scores over hundredths: relative to one variance of
both, an error of the scores would not show. So channels whose standard deviations lie decades apart
are groups of their own, and each group counts alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpsearch.stats.estimates import Floats

_DECADES = 1.0  # between the standard deviations of neighbouring groups
_CONSTANT = 1e-6  # variance over mean square below which a group varies only by rounding


@dataclass(frozen=True, slots=True)
class Scale:
    """What the squared errors of one output are multiplied by.

    Attributes:
        axis: Axis of the channels, samples first; 0 where all elements are one group.
        groups: [channels] group of each channel, from 0; (0,) where all elements are one group.
        weights: [channels] such that the mean of the weighted squares is the mean over groups of
            each group's mean square relative to its variance.
    """

    axis: int
    groups: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def n_groups(self) -> int:
        """Groups of channels."""
        return max(self.groups) + 1

    def spread(self, values: Sequence[float], like: Tensor) -> Tensor:
        """Return [channels] ``values`` as a tensor that multiplies one shaped ``like``, samples first."""
        shape = [1] * like.ndim
        if self.axis:
            shape[self.axis] = len(values)
        return torch.tensor(values, dtype=torch.float64, device=like.device).reshape(shape)

    def weigh(self, squares: Tensor) -> Tensor:
        """Return ``squares`` [samples, …] relative to the variances of their groups."""
        return squares * self.spread(self.weights, squares)

    def by_group(self) -> "tuple[Scale, ...]":
        """Return a scale for each group, by which only its own errors count."""
        return tuple(
            Scale(
                self.axis,
                self.groups,
                tuple(
                    weight * self.n_groups if own == group else 0.0
                    for own, weight in zip(self.groups, self.weights, strict=True)
                ),
            )
            for group in range(self.n_groups)
        )

    def name(self, output: str, group: int) -> str:
        """Return what a group is called: ``boxes``, or ``out[0:4]`` where the output has several."""
        if self.n_groups == 1:
            return output
        channels = [c for c, g in enumerate(self.groups) if g == group]
        first, last = channels[0], channels[-1]
        if last - first + 1 == len(channels):
            return f"{output}[{first}:{last + 1}]"
        return f"{output}[{', '.join(map(str, channels[:4]))}{', …' if len(channels) > 4 else ''}]"


def make_scale(parts: Sequence[Tensor], batch_axis: int | None = 0) -> Scale:
    """Return the scale of an output.

    Groups are found along the second axis or the last, whichever sets magnitudes further apart. A group that is
    constant is relative to its mean square, one of zeros to that of the whole output.

    Args:
        parts: The output of each batch in the fp32 model.
        batch_axis: Its axis of the samples; None: each part is one sample's.
    """
    firsts = [
        (part[None] if batch_axis is None else part.movedim(batch_axis, 0)).double()
        for part in parts
    ]
    rank = firsts[0].ndim
    best, widest = Scale(0, (0,), (_weight(*_moments(firsts, ()), 1.0),)), _DECADES
    for axis in sorted({1, rank - 1} & set(range(1, rank))):
        if firsts[0].shape[axis] < 2:
            continue
        means, squares = _moments(firsts, (axis,))
        groups, gap = _split(np.sqrt(np.maximum(squares - means**2, 0)))
        if gap > widest:
            best, widest = _weighted(axis, groups, means, squares), gap
    return best


def _moments(parts: Sequence[Tensor], kept: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Mean and mean square over all axes but ``kept``."""
    axes = [axis for axis in range(parts[0].ndim) if axis not in kept]
    count = sum(part.numel() for part in parts) / max(
        1, int(np.prod([parts[0].shape[axis] for axis in kept]))
    )
    first = sum(part.sum(axes).cpu().numpy() for part in parts)
    second = sum(part.square().sum(axes).cpu().numpy() for part in parts)
    return np.asarray(first) / max(count, 1), np.asarray(second) / max(count, 1)


def _split(deviations: Floats) -> tuple[list[int], float]:
    """Group of each channel, cut where sorted deviations are more than a decade apart, and the widest gap.

    Channels that do not vary belong to the group of the smallest deviations.
    """
    varying = deviations > 0
    if varying.sum() < 2:
        return [0] * len(deviations), 0.0
    least = deviations[varying].min()
    logs = np.log10(np.where(varying, deviations, least))
    order = np.argsort(logs, kind="stable")
    gaps = np.diff(logs[order])
    groups = np.empty(len(logs), np.int64)
    groups[order] = np.concatenate([[0], np.cumsum(gaps > _DECADES)])
    seen = {int(group): number for number, group in enumerate(dict.fromkeys(groups.tolist()))}
    return [seen[int(group)] for group in groups], float(gaps.max(initial=0.0))


def _weighted(axis: int, groups: list[int], means: Floats, squares: Floats) -> Scale:
    members = np.array(groups)
    count = max(groups) + 1
    weights = np.empty(len(groups))
    for group in range(count):
        inside = members == group
        weight = _weight(means[inside].mean(), squares[inside].mean(), float(squares.mean()))
        weights[inside] = weight * len(groups) / (count * inside.sum())
    return Scale(axis, tuple(groups), tuple(weights.tolist()))


def _weight(mean: Floats, square: Floats, whole: float) -> float:
    """One over the variance, or over what stands for it where there is none."""
    power = float(square)
    variance = power - float(mean) ** 2
    found = variance if variance > _CONSTANT * power else power
    return 1 / (found or whole or 1.0)
