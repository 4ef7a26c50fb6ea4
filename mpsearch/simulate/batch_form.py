"""How a model takes samples, found by running some of them together and apart.

A model exported at one batch may mix its samples at any other: a softmax over the first axis, a
Reshape to [1, …], a reduction over everything. Where the outputs of samples run together are those
of the samples run apart, any number may be run together; else each run holds what the model itself takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from math import gcd
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.data.batches import Array, Batches
from mpsearch.data.fit import fitting_axes, with_axes
from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph
from mpsearch.program.program import Program
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.program.tensors import to_tensor

Axes = Mapping[str, int | None]
Outputs = Mapping[str, Tensor]
Feed = Mapping[str, NDArray[Any] | Tensor]

_SAMPLES = 3
_FACTORS = (1.0, 0.25, 3.0)
"""Samples are made unlike: some models mix only what is large (a live range, a maximum) with the rest."""
_MOST_CHOICES = 64  # of axes, over all inputs, that are tried
_SAME, _SAME_HALF = (
    1e-3,
    3e-2,
)  # relative difference that rounding explains; with 16-bit values inside


@dataclass(frozen=True, slots=True)
class BatchForm:
    """How a model takes samples.

    Attributes:
        axes: Input name to the axis that samples run over; None: it has none.
        rows: Samples that each run must hold, where not any number may be run together.
        outputs: Value name to the axis that samples run over; None: all of it is one sample's. Values
            whose axis is not known are missing.
    """

    axes: Axes
    rows: int | None
    outputs: Mapping[str, int | None]

    def keep_size(self, graph: ModelGraph) -> "BatchForm":
        """Return the form of the model in a runtime, which takes no other number than a fixed one."""
        if self.rows is None and _fixed_sizes(graph, self.axes):
            return replace(self, rows=own_rows(graph, self.axes))
        return self

    def apply(self, batches: Batches) -> Batches:
        """Return the data as the model takes them: axes, and the rows of a run."""
        found = with_axes(batches, self.axes)
        if self.rows is None:
            return found
        size = max(found.batch_size // self.rows, 1) * self.rows
        return replace(found, batch_size=size, run_rows=self.rows)


def find_batch_form(
    graph: ModelGraph, program: Program, batches: Batches, values: Sequence[str]
) -> BatchForm:
    """Return how ``graph`` takes the samples of ``batches``, judged by ``values``.

    Args:
        graph: The model.
        program: It, compiled.
        batches: The data; three samples are run.
        values: Names of what must not change when samples are run together: what the loss reads.

    Raises:
        DataError: The model runs on the samples in no way, or their axis must be named.
    """
    choices = {
        value.name: fitting_axes(batches.arrays[value.name], value, graph.unbound, graph.batch_axes)
        for value in graph.inputs
    }
    found = islice(product(*choices.values()), _MOST_CHOICES)
    combinations = [dict(zip(choices, axes, strict=True)) for axes in found]
    combinations.sort(key=lambda axes: sum(axes[name] != choices[name][0] for name in axes))
    if all(axis is None for axis in combinations[0].values()):
        return BatchForm(combinations[0], 1, dict.fromkeys(values))
    apart: list[BatchForm] = []
    reason = ""
    for axes in combinations:
        rows = own_rows(graph, axes)
        if rows is None:
            continue
        trial = _Trial(graph, program, batches, tuple(values), axes, rows)
        try:
            form = trial.judge()
        except (
            Exception
        ) as error:  # whatever a model raises on inputs that are not as it takes them
            reason = reason or str(error)
            continue
        if form.rows is None:
            return form
        apart.append(form)
    if not apart or apart[0].axes != combinations[0]:
        whole = _all_at_once(graph, program, batches, tuple(values), combinations[0])
        if whole is not None:
            return whole
    if not apart:
        raise DataError(
            f"{batches.source}: samples must run through {graph.name} together or one at a time, but "
            f"they do neither: {reason}; if their axis is another one, name it: --batch-axis INPUT=AXIS "
            "(batch_axes= in Python)"
        )
    unclear = [form for form in apart if _is_free(graph, form.axes)]
    if len(unclear) > 1:
        raise DataError(
            f"{batches.source}: samples of {graph.name} change each other along every axis that may be "
            f"theirs ({' or '.join(map(_listed, unclear))}); say which it is: --batch-axis INPUT=AXIS "
            "(batch_axes= in Python)"
        )
    return apart[0]


def own_rows(graph: ModelGraph, axes: Axes) -> int | None:
    """Return how many samples a run of the model itself holds: 1 where the batch is free.

    None: its inputs do not agree.
    """
    fixed = _fixed_sizes(graph, axes)
    return fixed.pop() if len(fixed) == 1 else (None if fixed else 1)


def _fixed_sizes(graph: ModelGraph, axes: Axes) -> set[int]:
    """Return the sizes of the samples' axis, of all inputs where it is fixed."""
    sizes = {
        value.shape[axis]
        for value in graph.inputs
        if (axis := axes[value.name]) is not None and value.shape is not None
    }
    return {size for size in sizes if size is not None}


def _is_free(graph: ModelGraph, axes: Axes) -> bool:
    """Whether some input's axis has no fixed size."""
    return any(
        axes[value.name] is not None and value.shape is not None and value.shape[axis] is None
        for value in graph.inputs
        if (axis := axes[value.name]) is not None
    )


def _listed(form: BatchForm) -> str:
    return ", ".join(f"{name}={axis}" for name, axis in form.axes.items())


@dataclass(frozen=True, slots=True)
class _Trial:
    """Some samples, with the batch at given axes.

    Attributes:
        graph: The model.
        program: It, compiled.
        batches: The data.
        values: What is compared.
        axes: Where samples are stacked.
        rows: Samples that a run of the model itself holds; "apart" is one sample, so often.
    """

    graph: ModelGraph
    program: Program
    batches: Batches
    values: tuple[str, ...]
    axes: Axes
    rows: int

    @property
    def n(self) -> int:
        """Samples that are tried: a number that shares no factor with that of the model's own run."""
        numbers = range(_SAMPLES, self.rows + _SAMPLES + 1)
        return next(n for n in numbers if gcd(n, self.rows) == 1)

    def judge(self) -> BatchForm:
        """Return the form that running samples together and apart shows.

        Raises:
            Exception: The model does not run on a sample apart.
        """
        samples = self._samples(_FACTORS)
        try:
            apart = self._run_apart(samples)
        except Exception:  # inputs that may not be scaled, such as sizes
            apart = []
        if not apart or not _is_plain(apart):
            samples = self._samples((1.0,))
            apart = self._run_apart(samples)
        try:
            outputs = self._compare(apart, self._run(samples))
        except Exception:  # a model that takes its own number of samples and no other
            outputs = None
        if outputs is not None:
            return BatchForm(self.axes, None, outputs)
        if self._is_random(samples, apart[0]):
            return BatchForm(self.axes, None, {})
        return BatchForm(self.axes, self.rows, self._own_axes(apart[0]))

    def _samples(self, factors: Sequence[float]) -> dict[str, Array]:
        n = len(self.batches)
        chosen = np.linspace(0, n - 1, self.n).round().astype(int)
        found = {}
        for name, array in self.batches.arrays.items():
            rows = np.asarray(array[chosen])
            if rows.dtype.kind == "f" and self.axes[name] is not None:
                scale = np.resize(np.asarray(factors, rows.dtype), self.n).reshape(
                    -1, *[1] * (rows.ndim - 1)
                )
                rows = rows * scale
            found[name] = rows
        return found

    def _run_apart(self, samples: Mapping[str, Array]) -> list[Outputs]:
        return [
            self._run({name: np.repeat(x[i : i + 1], self.rows, 0) for name, x in samples.items()})
            for i in range(self.n)
        ]

    def _run(self, samples: Mapping[str, Array]) -> Outputs:
        feed = with_axes(replace(self.batches, arrays=samples), self.axes)
        return run_values(self.program, feed.feed(0, len(feed)), self.values)

    def _compare(self, apart: Sequence[Outputs], together: Outputs) -> dict[str, int | None] | None:
        """Return the axis of the samples in each value; None where they change each other."""
        limit = _SAME_HALF if _has_half(self.graph) else _SAME
        found: dict[str, int | None] = {}
        for name in self.values:
            parts, whole = [each[name] for each in apart], together[name]
            axis = next(
                (
                    axis
                    for axis in range(whole.ndim)
                    if _fits(parts, whole, axis, self.rows)
                    and all(
                        _is_same(whole.select(axis, i), part.select(axis, 0), limit)
                        for i, part in enumerate(parts)
                    )
                ),
                None,
            )
            if axis is None:
                return None
            found[name] = axis
        return found

    def _own_axes(self, apart: Outputs) -> dict[str, int | None]:
        """Return the axis of the samples in values of a run that holds the model's own number."""
        axes = {name: own_axis(self.graph, name, apart[name], self.rows) for name in self.values}
        return {name: a for name, a in axes.items() if a is not None or self.rows == 1}

    def _is_random(self, samples: Mapping[str, Array], first: Outputs) -> bool:
        again = self._run_apart(samples)[0]
        return not all(_is_same(again[name], first[name], _SAME) for name in self.values)


def _all_at_once(
    graph: ModelGraph,
    program: Program,
    batches: Batches,
    values: tuple[str, ...],
    axes: Axes,
) -> BatchForm | None:
    """Return the form of a model whose samples are parts of one whole, such as the nodes of a graph."""
    n = len(batches)
    try:
        outputs = run_values(program, with_axes(batches, axes).feed(0, n), values)
    except Exception:  # as above
        return None
    found = {
        name: next((a for a, size in enumerate(x.shape) if size == n), None)
        for name, x in outputs.items()
    }
    return BatchForm(axes, n, {name: axis for name, axis in found.items() if axis is not None})


def cut_feed(batches: Batches, inputs: Feed) -> list[Feed]:
    """Return ``inputs`` cut to the samples that a run of the model holds; the last part is filled up."""
    n, size = count_rows(batches, inputs), batches.run_rows
    if not size or n == size:
        return [inputs]
    parts: list[Feed] = []
    for start in range(0, n, size):
        part: dict[str, Tensor] = {}
        for name, given in inputs.items():
            x, axis = torch.as_tensor(given), batches.axes.get(name, 0)
            if axis is not None:
                rows = torch.arange(start, start + size, device=x.device).clamp_max(n - 1)
                x = x.index_select(axis, rows)
            part[name] = x
        parts.append(part)
    return parts


def count_rows(batches: Batches, inputs: Feed) -> int:
    """Return how many samples ``inputs`` hold, 1 where they have no axis for them."""
    axes = {name: batches.axes.get(name, 0) for name in inputs}
    return next((inputs[name].shape[axis] for name, axis in axes.items() if axis is not None), 1)


def join_outputs(
    graph: ModelGraph, batches: Batches, inputs: Feed, parts: Sequence[Outputs]
) -> dict[str, Tensor]:
    """Return outputs of the parts of ``inputs`` as those of one run; whole ones along a new first axis."""
    n, joined = count_rows(batches, inputs), {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        axis = own_axis(graph, name, tensors[0], batches.run_rows)
        whole = torch.stack(tensors) if axis is None else torch.cat(tensors, axis)
        joined[name] = whole.narrow(axis or 0, 0, n)
    return joined


def own_axis(graph: ModelGraph, name: str, tensor: Tensor, rows: int) -> int | None:
    """Return the axis of the samples in a value of a run that holds the model's own number of them."""
    axes = [axis for axis, size in enumerate(tensor.shape) if size == rows]
    known = graph.values.get(name)
    shape = None if known is None else known.shape
    if shape is not None and len(shape) == tensor.ndim:
        axes.sort(key=lambda axis: shape[axis] is not None)
    return axes[0] if axes else None


def run_values(
    program: Program, feed: Mapping[str, Array], values: Sequence[str]
) -> dict[str, Tensor]:
    """Return ``values`` of the fp32 program on one batch."""
    slots = [program.slots[name] for name in values]
    found = program.make_values()
    for name, array in feed.items():
        found[program.slots[name]] = to_tensor(array, program.device)
    with torch.no_grad():
        run_schedule(make_schedule(program, slots), found)
    tensors = {name: found[slot] for name, slot in zip(values, slots, strict=True)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _has_half(graph: ModelGraph) -> bool:
    return any(value.dtype in ("float16", "bfloat16") for value in graph.values.values())


def _is_plain(apart: Sequence[Outputs]) -> bool:
    """Whether all samples give finite values of one shape."""
    first = apart[0]
    return all(
        each[name].shape == first[name].shape and bool(torch.isfinite(each[name]).all())
        for each in apart
        for name in first
    )


def _fits(parts: Sequence[Tensor], whole: Tensor, axis: int, rows: int) -> bool:
    shape = list(whole.shape)
    if shape[axis] != len(parts):
        return False
    shape[axis] = rows
    return all(list(part.shape) == shape for part in parts)


def _is_same(a: Tensor, b: Tensor, limit: float) -> bool:
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return bool((a == b).all())
    a, b = a.double(), b.double()
    kept = torch.isfinite(b)
    if not bool((kept == torch.isfinite(a)).all()):
        return False
    a, b = a[kept], b[kept]
    return float((a - b).norm()) <= limit * float(b.norm()) + 1e-12
