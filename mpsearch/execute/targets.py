"""What the losses of each batch are compared with: the fp32 model's outputs, labels, masks."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mpsearch.data import Batches
from mpsearch.errors import DataError
from mpsearch.execute.heads import Head, find_mask
from mpsearch.execute.losses import Target
from mpsearch.execute.tensors import to_tensor
from mpsearch.graph.model import ModelGraph


def find_batch_axes(
    graph: ModelGraph, heads: Sequence[Head], reference: Sequence[Tensor], rows: int
) -> tuple[Head, ...]:
    """Return ``heads`` with the axis of the samples: the first of their number, a free one if two have it.

    Raises:
        DataError: No axis of an output runs over the samples.
    """
    found = []
    for head, tensor in zip(heads, reference, strict=True):
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
    powers: tuple[float, ...] | None = None,
) -> list[Target]:
    """Return what each batch is compared with, in order.

    ``powers`` are what squared errors are relative to, one a head; None takes those of ``references``.
    """
    if powers is None:
        powers = tuple(map(_power, zip(*references, strict=True)))
    name = find_mask(graph, batches)
    targets = []
    for index, reference in enumerate(references):
        rows = slice(index * batches.batch_size, (index + 1) * batches.batch_size)
        labels = batches.labels
        mask = None if name is None else batches.arrays[name][rows].astype(bool)
        targets.append(
            Target(
                reference,
                None if labels is None else to_tensor(labels[rows], device),
                None if mask is None else to_tensor(mask, device),
                powers,
            )
        )
    return targets


def _power(parts: Sequence[Tensor]) -> float:
    """Mean square over all elements of ``parts``."""
    squares = sum(float(part.double().square().sum()) for part in parts)
    return squares / max(sum(part.numel() for part in parts), 1)
