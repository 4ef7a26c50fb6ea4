"""Minibatches of a simulator's data, with what the loss compares them with, and a part that does not train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import DataError
from mpsearch.losses.losses import Target
from mpsearch.program.program import Program
from mpsearch.simulate.reference import Reference, to_tensors

Batch = tuple[dict[str, Tensor], Target]


@dataclass(frozen=True, slots=True)
class Samples:
    """Data in units that may be put together in any order: samples, or runs where the model mixes samples.

    Attributes:
        train: Numbers of the units that train.
        held_out: Numbers of those that do not.
        size: Units of a batch.
        take: Units to inputs and target of a batch.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    size: int
    take: Callable[[Sequence[int]], Batch]

    def held_out_batches(self) -> list[Sequence[int]]:
        """Return the units of each batch that does not train."""
        return [self.held_out[i : i + self.size] for i in range(0, len(self.held_out), self.size)]

    def draw(self, rng: np.random.Generator) -> list[list[int]]:
        """Return the units of the batches of one pass over what trains, in a random order."""
        order = rng.permutation(self.train).tolist()
        batches = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        if len(batches) > 1 and len(batches[-1]) < self.size // 2:
            batches.pop()  # a few samples alone are a noisy step
        return batches


def split_samples(
    program: Program, reference: Reference, *, batch: int, held_out: float
) -> Samples:
    """Return the data of ``reference``, every so manieth unit of them held out.

    Raises:
        DataError: There are fewer than two units.
    """
    batches = reference.batches
    mixes = bool(batches.run_rows) or any(axis is None for axis in batches.axes.values())
    n = batches.n_runs if mixes else len(batches)
    if n < 2:
        raise DataError(
            f"{batches.source}: training must hold back a part of the data, but there is but one "
            f"{'run of the model' if mixes else 'sample'}"
        )
    every = max(2, round(1 / held_out))
    held = tuple(range(every - 1, n, every)) or (n - 1,)
    train = tuple(i for i in range(n) if i not in set(held))
    if mixes:
        return Samples(train, held, 1, lambda units: _take_run(program, reference, units[0]))
    return Samples(train, held, batch, lambda units: _take(program, reference, units))


def _take_run(program: Program, reference: Reference, run: int) -> Batch:
    return to_tensors(program, reference.batches.feed_run(run)), reference.targets[run]


def _take(program: Program, reference: Reference, units: Sequence[int]) -> Batch:
    batches, rows = reference.batches, np.asarray(units)
    picked = replace(batches, arrays={name: x[rows] for name, x in batches.arrays.items()})
    runs, places = rows // batches.run_size, rows % batches.run_size
    parts = [(reference.targets[run], int(place)) for run, place in zip(runs, places, strict=True)]
    values = []
    for index, head in enumerate(reference.heads):
        each = [head.samples_first(target.reference[index])[i] for target, i in parts]
        assert head.batch_axis is not None  # else samples are runs
        values.append(torch.stack(each).movedim(0, head.batch_axis))
    labels = [target.labels[i] for target, i in parts if target.labels is not None]
    masks = [target.mask[i] for target, i in parts if target.mask is not None]
    target = replace(
        reference.targets[0],
        reference=tuple(values),
        labels=torch.stack(labels) if labels else None,
        mask=torch.stack(masks) if masks else None,
    )
    return to_tensors(program, picked.feed(0, len(rows))), target
