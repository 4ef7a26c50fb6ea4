"""What the losses of each batch are compared with: the fp32 model's outputs, labels, masks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.data.batches import RESERVED, Batches
from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph
from mpsearch.losses.custom import ACCURACY, find_quality
from mpsearch.losses.losses import Target, quality_scores
from mpsearch.losses.outputs import Head, LossChoice, find_mask
from mpsearch.losses.scales import Scale, make_scale
from mpsearch.program.tensors import to_tensor


def find_batch_axes(
    graph: ModelGraph,
    heads: Sequence[Head],
    reference: Sequence[Tensor],
    rows: int,
    known: Mapping[str, int | None],
) -> tuple[Head, ...]:
    """Return ``heads`` with the axis of the samples.

    Args:
        graph: The model.
        heads: What the loss reads.
        reference: Their values on the first batch.
        rows: Samples of that batch.
        known: Value to the axis, where it was found by running the model; else it is the first of
            ``rows`` elements, a free one if two have them.

    Raises:
        DataError: No axis of an output runs over the samples.
    """
    found = []
    for head, tensor in zip(heads, reference, strict=True):
        if head.value in known:
            found.append(replace(head, batch_axis=known[head.value]))
            continue
        axes = [axis for axis, size in enumerate(tensor.shape) if size == rows]
        value = graph.values.get(head.value)
        if len(axes) > 1 and value is not None and value.shape is not None:
            axes = [axis for axis in axes if value.shape[axis] is None] or axes
        if not axes:
            raise DataError(
                f"an axis of output {head.output!r} must run over the {rows} samples of a batch, "
                f"but its shape is {list(tensor.shape)}"
            )
        found.append(replace(head, batch_axis=axes[0]))
    return tuple(found)


def make_targets(
    graph: ModelGraph,
    batches: Batches,
    references: Sequence[tuple[Tensor, ...]],
    device: torch.device,
    heads: tuple[Head, ...],
    choice: LossChoice,
    scales: tuple[Scale, ...] | None = None,
) -> list[Target]:
    """Return what each run of the model is compared with, in order.

    Args:
        graph: The model.
        batches: The data.
        references: [runs][heads] What the fp32 model gives.
        device: Where labels and masks go.
        heads: What the loss reads.
        choice: The loss that was asked for.
        scales: What squared errors are relative to, one a head; None takes those of ``references``.

    Raises:
        DataError: The user's own measure cannot be found, or fails.
    """
    own = choice.kind == "quality" and choice.function != ACCURACY
    quality = find_quality(choice.function) if own else None
    if scales is None:
        scales = tuple(
            make_scale(parts, head.batch_axis)
            for head, parts in zip(heads, zip(*references, strict=True), strict=True)
        )
    name = find_mask(graph, batches)
    targets = []
    for index, whole in enumerate(references):
        rows = slice(index * batches.run_size, (index + 1) * batches.run_size)
        n = min(batches.run_size, len(batches) - rows.start)
        reference = tuple(head.take(x, n) for head, x in zip(heads, whole, strict=True))
        labels = batches.labels
        mask = None if name is None else batches.arrays[name][rows].astype(bool)
        target = Target(
            reference,
            None if labels is None else to_tensor(labels[rows], device),
            None if mask is None else to_tensor(mask, device),
            scales,
            _blank(choice, heads[0], reference[0], labels),
        )
        if quality is not None:
            batch = {key: array[rows] for key, array in batches.arrays.items()}
            reserved = {field: getattr(batches, field) for field in RESERVED}
            batch |= {key: array[rows] for key, array in reserved.items() if array is not None}
            target = replace(target, quality=quality, batch=batch)
            scores = quality_scores(heads, reference, target)
            target = replace(target, reference_quality=scores)
        targets.append(target)
    return targets


def _blank(
    choice: LossChoice, head: Head, reference: Tensor, labels: NDArray[Any] | None
) -> int | None:
    """The blank of label sequences: fewer labels than positions cannot be one a position."""
    if choice.kind in ("ctc", "ctc_last"):
        return 0 if choice.kind == "ctc" else -1
    if labels is None or labels.ndim != 2 or labels.dtype.kind not in "iu":
        return None
    rank = reference.ndim if head.batch_axis is not None else reference.ndim + 1
    if not head.is_class or rank != 3 or head.axis % reference.ndim == head.batch_axis:
        return None
    others = {head.batch_axis, head.axis % reference.ndim}
    positions = next(i for i in range(reference.ndim) if i not in others)
    return 0 if 1 < labels.shape[1] < reference.shape[positions] else None
