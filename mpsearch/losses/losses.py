"""Losses per sample: divergence from the fp32 model, or the increase of the loss against labels."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.errors import DataError
from mpsearch.losses.ctc import ctc_hits, ctc_losses
from mpsearch.losses.custom import Arrays, Quality
from mpsearch.losses.outputs import LABELLED, Head, LossChoice
from mpsearch.losses.scales import Scale
from mpsearch.stats.estimates import Estimate, Floats, estimate_mean

_UNITS = {"ctc": "nats a label", "ctc_last": "nats a label", "mse": "relative MSE"}


_PIECE = 1 << 16  # elements in fp64 that fit beside their temporaries in a core's cache


@dataclass(frozen=True, slots=True)
class Target:
    """What a batch's outputs are compared with.

    Attributes:
        reference: Values of the heads in the fp32 model, one a head.
        labels: [n, …] or None.
        mask: [n, positions] bool of the positions that count, or None.
        scales: What squared errors of each head are relative to: its variance over all data.
        blank: Class that stands between labels where these are sequences without positions (CTC).
        quality: The user's own measure; None where the loss is another.
        batch: What that measure reads beside the outputs: input name or ``labels`` to array.
        reference_quality: [n] what it says of the fp32 model.
    """

    reference: tuple[Tensor, ...]
    labels: Tensor | None
    mask: Tensor | None
    scales: tuple[Scale, ...]
    blank: int | None = None
    quality: Quality | None = None
    batch: Arrays = field(default_factory=dict)
    reference_quality: Tensor | None = None


def loss_unit(choice: LossChoice, kind: str, heads: tuple[Head, ...]) -> str:
    """Return the unit that a loss of this kind is in."""
    if kind == "quality":
        unit = f"drop of {choice.function.rpartition(':')[2]}"
    elif all(head.is_number for head in heads):
        unit = "relative MSE"
    elif any(head.is_number for head in heads):
        unit = "nats and relative MSE"
    else:
        unit = _UNITS.get(kind, "nats")
    return f"{unit}, worst slice" if choice.worst_slice else unit


def worst_slice(losses: Floats, slices: NDArray[Any]) -> tuple[Estimate, str]:
    """Return the largest mean loss of a slice of the data, with its standard error, and its name.

    Args:
        losses: [n] losses.
        slices: [n] names of the slice that each sample belongs to.
    """
    names = np.unique(slices).tolist()
    means = [estimate_mean(losses[slices == name]) for name in names]
    worst = max(range(len(names)), key=lambda i: means[i].mean)
    return means[worst], str(names[worst])


def sample_losses(
    kind: str, heads: tuple[Head, ...], values: tuple[Tensor, ...], target: Target
) -> Tensor:
    """Return the [n] losses of a batch in fp64, differentiable in ``values``.

    ``kl``: the divergence of each head's distribution from the fp32 model's, averaged over positions
    and heads; of numbers their squared error relative to their variance. ``nll``: the increase over the fp32 model of the negative
    log-likelihood of the labels (squared error for numbers). ``ctc``: the same, of label sequences over all
    alignments, a label. ``mse``: squared error relative to the variance. ``quality``: the drop of
    the user's measure below the fp32 model's, or of the accuracy; it has no gradient.
    """
    values = _without_fill(heads, values, target)
    if kind == "quality":
        return _quality_drops(heads, values, target)
    if kind in LABELLED:
        return absolute_losses(heads, values, target) - absolute_losses(
            heads, target.reference, target
        )
    parts = [
        _divergence(head, value, reference, scale, target.mask)
        for head, value, reference, scale in zip(
            heads, values, target.reference, target.scales, strict=True
        )
    ]
    return torch.stack(parts).mean(0)


def part_losses(
    heads: tuple[Head, ...], values: tuple[Tensor, ...], target: Target
) -> dict[str, Tensor]:
    """Return the [n] divergences of each part of the outputs: what ``kl`` and ``mse`` are the mean of.

    A part is an output, or a group of its channels where these are of several magnitudes.
    """
    values = _without_fill(heads, values, target)
    parts: dict[str, Tensor] = {}
    for head, value, reference, scale in zip(
        heads, values, target.reference, target.scales, strict=True
    ):
        scales = scale.by_group() if head.is_number else (scale,)
        for group, own in enumerate(scales):
            name = scale.name(head.output, group) if head.is_number else head.output
            parts[name] = _divergence(head, value, reference, own, target.mask)
    return parts


def _divergence(
    head: Head, value: Tensor, reference: Tensor, scale: Scale, mask: Tensor | None
) -> Tensor:
    """[n] divergences, a few samples at a time: their temporaries in fp64 stay in the cache."""
    value, reference = head.samples_first(value), head.samples_first(reference)
    rows = max(1, _PIECE * len(value) // max(value.numel(), 1))
    pieces = [
        _compare(
            head,
            value[i : i + rows].double(),
            reference[i : i + rows].double(),
            scale,
            None if mask is None else mask[i : i + rows],
        )
        for i in range(0, len(value), rows)
    ]
    return torch.cat(pieces)


def _quality_drops(heads: tuple[Head, ...], values: tuple[Tensor, ...], target: Target) -> Tensor:
    if target.quality is None:
        before = accuracies(heads, target.reference, target)
        return before - accuracies(heads, values, target)
    reference = target.reference_quality
    assert reference is not None
    return target.quality.sign * (quality_scores(heads, values, target) - reference)


def quality_scores(heads: tuple[Head, ...], values: tuple[Tensor, ...], target: Target) -> Tensor:
    """Return the [n] scores that the target's own measure gives a batch.

    Raises:
        DataError: The function fails, or does not return one finite number a sample.
    """
    assert target.quality is not None
    values = _without_fill(heads, values, target)
    outputs = {
        head.output: (value[None] if head.batch_axis is None else value).detach().cpu().numpy()
        for head, value in zip(heads, values, strict=True)
    }
    n = len(heads[0].samples_first(values[0]))
    return torch.from_numpy(target.quality.score(outputs, target.batch, n))


def _without_fill(
    heads: tuple[Head, ...], values: tuple[Tensor, ...], target: Target
) -> tuple[Tensor, ...]:
    """``values`` of the batch's own samples, as the reference has them."""
    return tuple(
        value
        if value.shape == reference.shape
        else head.take(value, len(head.samples_first(reference)))
        for head, value, reference in zip(heads, values, target.reference, strict=True)
    )


def class_axis(head: Head, rank: int) -> int:
    """Axis of the classes in a value of ``rank`` axes whose samples come first."""
    if head.batch_axis is None:
        return head.axis % (rank - 1) + 1
    axis = head.axis % rank
    if axis == head.batch_axis:
        raise DataError(f"output {head.output!r}: classes and samples cannot share axis {axis}")
    return axis + 1 if axis < head.batch_axis else axis


def log_probabilities(head: Head, value: Tensor) -> Tensor:
    """Return logarithms of class probabilities, classes last."""
    moved = value.movedim(class_axis(head, value.ndim), -1)
    if head.meaning == "logits":
        return torch.log_softmax(moved, -1)
    if head.meaning == "probabilities":
        return moved.clamp_min(1e-38).log()
    return moved


def log_odds(head: Head, value: Tensor) -> Tensor:
    """Return log(p / (1 − p)) of chances p."""
    if head.meaning == "odds":
        return value
    inside = value.clamp(1e-12, 1 - 1e-12)
    return inside.log() - (1 - inside).log()


def _compare(
    head: Head, value: Tensor, reference: Tensor, scale: Scale, mask: Tensor | None
) -> Tensor:
    if head.is_number:
        return _mean_positions(scale.weigh((value - reference).square()), mask)
    if head.is_class:
        p, q = log_probabilities(head, reference), log_probabilities(head, value)
        return _mean_positions((p.exp() * (p - q)).sum(-1), mask)
    p, q = log_odds(head, reference), log_odds(head, value)
    chance = torch.sigmoid(p)
    divergence = chance * (F.logsigmoid(p) - F.logsigmoid(q)) + (1 - chance) * (
        F.logsigmoid(-p) - F.logsigmoid(-q)
    )
    return _mean_positions(divergence, mask)


def _mean_positions(each: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over all axes but the first, over positions that the mask keeps where it fits; of none it is 0."""
    if not each.numel():
        return each.reshape(each.shape[0], -1).sum(1)
    if each.ndim == 1:
        return each
    if mask is not None and each.shape[:2] == mask.shape:
        per_position = each.reshape(*each.shape[:2], -1).mean(-1)
        kept = mask.to(per_position.dtype)
        return (per_position * kept).sum(1) / kept.sum(1).clamp_min(1)
    return each.reshape(each.shape[0], -1).mean(1)


def absolute_losses(heads: tuple[Head, ...], values: tuple[Tensor, ...], target: Target) -> Tensor:
    """Return the [n] losses against the labels themselves: nats, or relative squared error.

    Raises:
        DataError: The labels do not fit the output.
    """
    values = _without_fill(heads, values, target)
    head, value = heads[0], heads[0].samples_first(values[0]).double()
    labels = _labels(target)
    if head.is_number:
        wanted = labels.double()
        _check_shape(head, wanted, value.shape)
        return _mean_positions(target.scales[0].weigh((value - wanted).square()), target.mask)
    if not head.is_class:
        odds = log_odds(head, value)
        wanted = labels.double()
        wanted = wanted.unsqueeze(-1) if wanted.ndim == odds.ndim - 1 else wanted
        _check_shape(head, wanted, odds.shape)
        each = F.binary_cross_entropy_with_logits(odds, wanted, reduction="none")
        return _mean_positions(each, target.mask)
    log_p = log_probabilities(head, value)
    if target.blank is not None:
        return ctc_losses(log_p, labels, target.blank, target.mask)
    labels, valid = _class_labels(head, labels, log_p, target)
    each = -log_p.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    if each.ndim == 1:
        return each
    return _mean_valid(each, valid)


def accuracies(heads: tuple[Head, ...], values: tuple[Tensor, ...], target: Target) -> Tensor:
    """Return the [n] shares of positions whose label is the model's first choice.

    Of label sequences: 1 where the best path, repeats and blanks left out, spells the labels, else 0.
    """
    values = _without_fill(heads, values, target)
    head, value = heads[0], heads[0].samples_first(values[0]).double()
    labels = _labels(target)
    if head.is_number:
        raise DataError(f"output {head.output!r} is no classification: it has no accuracy")
    if not head.is_class:
        wanted = labels.double()
        wanted = wanted.unsqueeze(-1) if wanted.ndim == value.ndim - 1 else wanted
        right = (log_odds(head, value) > 0) == (wanted > 0.5)
        return _mean_positions(right.double(), target.mask)
    log_p = log_probabilities(head, value)
    if target.blank is not None:
        return ctc_hits(log_p, labels, target.blank, target.mask)
    labels, valid = _class_labels(head, labels, log_p, target)
    right = (log_p.argmax(-1) == labels).double()
    return right if right.ndim == 1 else _mean_valid(right, valid)


def _labels(target: Target) -> Tensor:
    if target.labels is None:
        raise DataError("the data must hold an array 'labels' for this, it has none")
    return target.labels


def _class_labels(
    head: Head, labels: Tensor, log_p: Tensor, target: Target
) -> tuple[Tensor, Tensor]:
    """Class labels shaped as positions, and which of them count: not negative, not masked."""
    shape, classes = log_p.shape[:-1], log_p.shape[-1]
    labels = labels.to(torch.int64)
    if labels.ndim == len(shape) + 1 and labels.shape[-1] == 1:
        labels = labels.squeeze(-1)
    if labels.ndim < len(shape) and all(size == 1 for size in shape[labels.ndim :]):
        labels = labels.reshape(*labels.shape, *shape[labels.ndim :])
    _check_shape(head, labels, shape)
    if classes == 1 and int(labels.max()) > 0:
        raise DataError(
            f"labels are whole numbers, which name classes, but output {head.output!r} has one column: for a "
            "regression they must be floats"
        )
    if int(labels.max()) >= classes:
        raise DataError(
            f"labels must be below the {classes} classes of output {head.output!r}, "
            f"got {int(labels.max())}"
        )
    valid = labels >= 0
    if target.mask is not None and target.mask.shape == valid.shape:
        valid = valid & target.mask
    return labels, valid


def _mean_valid(each: Tensor, valid: Tensor) -> Tensor:
    kept = valid.to(each.dtype).reshape(each.shape[0], -1)
    flat = each.reshape(each.shape[0], -1)
    return (flat * kept).sum(1) / kept.sum(1).clamp_min(1)


def _check_shape(head: Head, labels: Tensor, shape: torch.Size) -> None:
    if labels.shape != shape:
        raise DataError(
            f"labels must have shape {['samples', *shape[1:]]} for output {head.output!r}, got "
            f"{['samples', *labels.shape[1:]]}; use loss='kl' to go without them"
        )


Score = Literal["nll", "accuracy"]
