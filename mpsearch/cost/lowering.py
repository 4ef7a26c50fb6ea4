"""From a graph to what a runtime executes beside its layers' kernels: conversions of activations, other operators.

A tensor is converted once for all its readers in a format. That must be said in terms of single groups and of pairs,
so that searches stay exact:

- what one layer writes is converted on the edge to its first reader, unless an epilogue does it;
- what several layers feed (a residual sum), or the network is given, was merged in the base format: its
  first reader converts it, whatever wrote the parts;
- a further reader takes the copy of the reader before it where both take one spec, else it pays for its own.
  That is exact where readers in one spec follow each other, and an upper bound elsewhere.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.cost.device import Device, measured_quantization, operand_format
from mpsearch.cost.kernels import Kernel, group_of_layers
from mpsearch.cost.products import element_bytes
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.schemes import Spec
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Floats


@dataclass(frozen=True, slots=True)
class Conversions:
    """What bringing activations into their readers' formats takes, in microseconds.

    Attributes:
        reads: [G, S] what a reader alone decides.
        pairs: (group, group, [S, S]) what two groups decide together.
    """

    reads: Floats
    pairs: tuple[tuple[int, int, Floats], ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """A group that reads a tensor.

    Attributes:
        writer: The group that alone writes it; -1 where it was merged or is an input.
        reader: The group that reads it.
        elements: Of the tensor.
    """

    writer: int
    reader: int
    elements: float


def find_conversions(
    graph: ModelGraph, space: SearchSpace, device: Device, layers: Sequence[Sequence[Kernel]]
) -> Conversions:
    """Return what converting activations takes on ``device``.

    Args:
        graph: The model.
        space: Its schemes, and what the target's kernels fuse.
        device: What runs them.
        layers: Kernels of each layer at the priced batch.
    """
    times = _times(space, device)
    reads = np.zeros((len(graph.groups), len(space.schemes)))
    pairs: list[tuple[int, int, Floats]] = []
    for readers in _tensors(graph, layers):
        for i, read in enumerate(readers):
            before = readers[i - 1].reader if i else read.writer
            if before < 0:
                reads[read.reader] += _us(times.merged, read.elements)
            elif i == 0:
                pairs.append((before, read.reader, _us(times.written, read.elements)))
            else:
                pairs.append((before, read.reader, _us(times.copied, read.elements)))
                if read.writer >= 0 and times.way_back.any():
                    pairs.append((read.writer, read.reader, _us(times.way_back, read.elements)))
    return Conversions(reads, tuple(pairs))


def _tensors(graph: ModelGraph, layers: Sequence[Sequence[Kernel]]) -> Iterator[list[_Read]]:
    """Yield the readers of each tensor, a group once, in schedule order.

    A reader in the group of the writer takes what its own scheme wrote.
    """
    group_of, sources = group_of_layers(graph), Counter(edge.target for edge in graph.edges)
    tensors: dict[tuple[object, ...], list[_Read]] = {}
    for i, layer in enumerate(graph.layers):
        if 0 < sources[i] <= _operands(layer):
            continue
        elements: float = sum(kernel.input_elements for kernel in layers[i])
        key: tuple[object, ...] = ("merged", layer.gemms[0].left.value)
        tensors.setdefault(key, []).append(_Read(-1, group_of[i], elements))
    for edge in graph.edges:
        target = graph.layers[edge.target]
        if sources[edge.target] > _operands(target):
            continue
        own = max(1, target.input_elements)
        elements = edge.elements * sum(k.input_elements for k in layers[edge.target]) / own
        key = (edge.source, target.gemms[0].left.value)
        if _operands(target) > 1:
            key = (*key, group_of[edge.target])
        read = _Read(group_of[edge.source], group_of[edge.target], elements)
        tensors.setdefault(key, []).append(read)
    for readers in tensors.values():
        seen = {readers[0].writer}
        kept = []
        for read in readers:
            if read.reader not in seen:
                seen.add(read.reader)
                kept.append(read)
        if kept:
            yield kept


def _operands(layer: Layer) -> int:
    """Activations that a layer multiplies."""
    return 1 if layer.gemms[0].has_weight else 2


@dataclass(frozen=True, slots=True)
class _Times:
    """Microseconds of converting a tensor: fixed and an element, by the schemes of two groups.

    Attributes:
        merged: [S, 2] of a tensor in the base format, for a reader.
        written: [S, S, 2] of what the first group's kernel writes, for the second.
        copied: [S, S, 2] of a tensor that the first group read before the second does.
        way_back: [S, S, 2] of what a narrow kernel wrote, for a further reader in a float format.
    """

    merged: Floats
    written: Floats
    copied: Floats
    way_back: Floats


def _times(space: SearchSpace, device: Device) -> _Times:
    specs = [scheme.activation for scheme in space.schemes]
    base, fused = specs[space.index(space.base)], space.fusing.quantisation
    written = np.array([[_conversion(device, base, a, b, fused) for b in specs] for a in specs])
    merged = np.array([_conversion(device, base, base, b, "never") for b in specs])
    same = np.array([[[a == b or b.is_cast] for b in specs] for a in specs])
    casts = np.array([[spec.is_cast] for spec in specs])
    return _Times(merged, written, np.where(same, 0.0, merged), np.where(casts, written, 0.0))


def _us(times: Floats, elements: float) -> Floats:
    result: Floats = times[..., 0] + elements * times[..., 1]
    return result


def _conversion(
    device: Device, base: Spec, writer: Spec, reader: Spec, fused: str
) -> tuple[float, float]:
    """Fixed time and time an element of bringing a tensor into the reader's spec, beside the kernels' own traffic."""
    epilogue = fused == "static" or (fused == "same" and writer == reader)
    if epilogue and reader.range == "static" and not reader.is_cast:
        return 0.0, 0.0
    if reader.is_cast and (writer.is_cast or device.dequantize_ns == 0):
        return 0.0, 0.0
    passes = 2 if reader.range == "dynamic" else 1  # the range is read before it is applied
    moved = element_bytes(base) * passes + element_bytes(reader)
    kernel = None if reader.is_cast else measured_quantization(device, operand_format(reader))
    if kernel is not None:
        return kernel.launch_us, moved / (device.bandwidth_gb_s * 1e3 * kernel.memory_efficiency)
    per_element = device.dequantize_ns if reader.is_cast else device.quantize_ns
    bandwidth = device.bandwidth_gb_s * 1e3 * device.memory_efficiency
    return device.launch_us, moved / bandwidth + per_element / 1e3
