"""What a model answers, as variables that are told with noise: a Gaussian channel for each output."""

from collections.abc import Sequence
from math import exp, log

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from mpsearch.losses.losses import log_odds, log_probabilities
from mpsearch.losses.outputs import Head
from mpsearch.losses.scales import Scale
from mpsearch.stats.estimates import Floats

_RESOLUTION = 0.1  # of the standard deviation of numbers: as finely as they are told
_NOTHING = 1e-9  # nats


def find_answers(
    heads: Sequence[Head], references: Sequence[Sequence[Tensor]], scales: Sequence[Scale]
) -> Floats:
    """Return [n, D] scores in units of the noise that they are told with, which is independent of them.

    Scores are means over positions. A Gaussian that sees them through noise of variance 1 knows what they
    hold of the inputs: for classes H(mean p) − mean H(p) nats, p their probabilities; for chances at most
    that of each; numbers are told to a tenth of the deviation that the loss takes them relative to.

    Args:
        heads: What of the outputs is read.
        references: [heads][runs] their values, the batch's own samples only.
        scales: What squared errors are relative to, one a head.
    """
    return np.hstack(
        [
            _told(head, [head.samples_first(part).double() for part in parts], scale)
            for head, parts, scale in zip(heads, references, scales, strict=True)
        ]
    )


def class_information(probabilities: Floats) -> float:
    """Return what a class drawn from the [n, C] probabilities tells of the sample, in nats."""
    mean = probabilities.mean(0, keepdims=True)
    return max(float(_entropies(mean)[0] - _entropies(probabilities).mean()), 0.0)


def _entropies(probabilities: Floats) -> Floats:
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return np.asarray(-(probabilities * np.log(safe)).sum(1), np.float64)


def _told(head: Head, parts: Sequence[Tensor], scale: Scale) -> Floats:
    """The columns of one output in units of their noise; its runs are [n, …]."""
    if head.is_class:
        logs = [log_probabilities(head, part) for part in parts]
        known = class_information(_means([x.exp() for x in logs]))
        return _scaled(_means([x - x.mean(-1, keepdim=True) for x in logs]), known)
    if head.is_number:
        weighed = [part * scale.weigh(torch.ones_like(part)).sqrt() for part in parts]
        return _means(weighed) / _RESOLUTION
    odds = [log_odds(head, part) for part in parts]
    columns, chances = _means(odds), _means([torch.sigmoid(x) for x in odds])
    return np.hstack(
        [
            _scaled(columns[:, [c]], class_information(np.stack([p, 1 - p], 1)))
            for c, p in enumerate(chances.T)
        ]
    )


def _means(parts: Sequence[Tensor]) -> Floats:
    """[n, C] means over all axes but the first and the last."""
    rows = [part.reshape(len(part), -1, part.shape[-1] if part.ndim > 1 else 1) for part in parts]
    return np.concatenate([part.mean(1).cpu().numpy() for part in rows])


def _scaled(scores: Floats, known: float) -> Floats:
    """[n, C] scores divided by the deviation of noise that leaves them ``known`` nats of themselves."""
    centred = scores - scores.mean(0)
    powers = np.linalg.svd(centred, compute_uv=False) ** 2 / max(len(centred) - 1, 1)
    powers = powers[powers > 1e-18 * max(float(powers.max(initial=0.0)), 1e-300)]
    if known < _NOTHING or not len(powers):
        return np.zeros_like(scores)

    def left(noise: float) -> float:
        return float(0.5 * np.log1p(powers * exp(-noise)).sum()) - known

    largest = log(float(powers.max()))
    noise = brentq(left, largest - 2 * known - 1, largest + log(len(powers) / (2 * _NOTHING)) + 1)
    return np.asarray(centred * exp(-noise / 2), np.float64)
