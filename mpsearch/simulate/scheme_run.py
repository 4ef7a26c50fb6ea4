"""How a layer runs in a scheme: quantised inputs shared between consumers, simulated weights, rounded output."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.notations import parse_accumulator
from mpsearch.numerics.quantize import quantize_activation
from mpsearch.numerics.range import Range
from mpsearch.numerics.straight_through import LearnedRange, pass_straight
from mpsearch.program.program import Step
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.accumulation import run_in_chunks
from mpsearch.simulate.changes import add_bias
from mpsearch.simulate.observation import activation_inputs
from mpsearch.space.allowed import ACCUMULATES

Ranges = Mapping[tuple[str, Spec], Range]
LearnedRanges = Mapping[tuple[str, Spec], Range | LearnedRange]
HIDDEN = ("LSTM", "GRU", "RNN", "Attention")
"""Operators whose kernels take ``hidden``: what happens to their internal operand."""


@dataclass(frozen=True, slots=True)
class Read:
    """One activation operand of a layer.

    Attributes:
        index: Input of the node.
        value: Name of the value.
        axis: Reduction axis.
        groups: Convolution groups that the axis spans.
    """

    index: int
    value: str
    axis: int
    groups: int

    def key(self, spec: Spec) -> tuple[str, Spec, int, int]:
        """Return what two consumers must have in common to share one quantised tensor."""
        if spec.granularity == "tensor":
            return self.value, spec, 0, 1
        return self.value, spec, self.axis, self.groups


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a layer takes its operands.

    Attributes:
        reads: Its activation operands.
        weights: (gemm index, input of the node) of its weights.
        hidden: Whether an operand lives inside the operator.
    """

    reads: tuple[Read, ...]
    weights: tuple[tuple[int, int], ...]
    hidden: bool


def find_ports(graph: ModelGraph) -> tuple[Ports, ...]:
    """Return where each layer of ``graph`` takes its operands."""
    return tuple(
        Ports(
            read_operands(layer),
            weight_inputs(layer),
            layer.op_type in HIDDEN and any(gemm.left.input_index < 0 for gemm in layer.gemms),
        )
        for layer in graph.layers
    )


def read_operands(layer: Layer) -> tuple[Read, ...]:
    """Return the activation operands of ``layer``."""
    return tuple(
        Read(index, value, axis, groups)
        for index, (value, axis, groups) in activation_inputs(layer).items()
    )


def weight_inputs(layer: Layer) -> tuple[tuple[int, int], ...]:
    """Return (gemm index, input of the node) of every weight of ``layer``."""
    return tuple(
        (i, gemm.right.input_index)
        for i, gemm in enumerate(layer.gemms)
        if gemm.has_weight and gemm.right.input_index >= 0
    )


def quantize_input(x: Tensor, spec: Spec, read: Read, ranges: LearnedRanges, layer: str) -> Tensor:
    """Return an activation as ``spec`` holds it, in its own element type."""
    if spec.is_cast and (rounded := _cast(x, spec.format)) is not None:
        return rounded
    axis, groups = read.axis, read.groups
    name = f"{layer}: {read.value}"
    known = ranges.get((read.value, spec))
    if groups == x.shape[axis] and spec.granularity == "block":
        # depthwise: every element is a block of its own, in whatever order they lie
        dense = x if x.is_contiguous() else x.permute(0, 2, 3, 1) if _is_channels_last(x) else x
        flat = dense.reshape(1, 1, -1)
        rounded = quantize_activation(flat, spec, reduction_axis=1, range=known, name=name)
        shaped = rounded.reshape(dense.shape).to(x.dtype)
        return shaped.permute(0, 3, 1, 2) if dense is not x else shaped
    turned = _is_channels_last(x)
    view = x.permute(0, 2, 3, 1) if turned else x  # as it lies in memory: no copy
    if turned:
        axis = (0, 3, 1, 2)[axis % 4]
    rounded = quantize_activation(
        view, spec, reduction_axis=axis, groups=groups, range=known, name=name
    ).to(x.dtype)
    return rounded.permute(0, 3, 1, 2) if turned else rounded


def _is_channels_last(x: Tensor) -> bool:
    return (
        x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    )


_HARDWARE = {"fp16": torch.float16, "bf16": torch.bfloat16}


def _cast(x: Tensor, name: str) -> Tensor | None:
    """A plain cast by the machine's own conversion, straight through; None where it has none."""
    if name == "fp32":
        return x
    if name not in _HARDWARE or x.dtype not in (torch.float32, torch.float64):
        return None
    rounded = x.detach().to(_HARDWARE[name]).to(x.dtype)
    return pass_straight(x, rounded, None) if x.requires_grad else rounded


class Weights(Protocol):
    """What gives a run its weights."""

    def simulated(self, layer: int, scheme: Scheme, gemm: int = 0) -> Tensor:
        """Return the weight of a layer's product in ``scheme``, shape and type as in the graph."""


class SchemeRun:
    """Runs layers in the schemes of one assignment, over one batch; shares quantised inputs."""

    __slots__ = (
        "_base",
        "_biases",
        "_graph",
        "_left",
        "_ports",
        "_ranges",
        "_schemes",
        "_shared",
        "_weights",
    )

    def __init__(
        self,
        graph: ModelGraph,
        schemes: Sequence[Scheme],
        base: Scheme,
        ranges: LearnedRanges,
        weights: Weights,
        layers: Sequence[int],
        ports: Sequence[Ports],
        biases: Mapping[int, Tensor] = {},
    ) -> None:
        """Prepare to run ``layers``, in the scheme of each layer of the graph; ``biases`` are added to outputs."""
        self._graph, self._schemes, self._base = graph, schemes, base
        self._ports, self._biases = ports, biases
        self._ranges, self._weights = ranges, weights
        self._shared: dict[object, Tensor] = {}
        self._left = Counter(
            read.key(schemes[layer].activation) for layer in layers for read in ports[layer].reads
        )

    def __call__(self, step: Step, inputs: list[Tensor | None]) -> object:
        """Run the step of a layer."""
        layer, scheme = self._graph.layers[step.layer], self._schemes[step.layer]
        ports = self._ports[step.layer]
        for read in ports.reads:
            inputs[read.index] = self._quantized(read, scheme.activation, inputs, layer.name)
        for gemm, index in ports.weights:
            inputs[index] = self._weights.simulated(step.layer, scheme, gemm)
        result: object
        accumulator = parse_accumulator(scheme.accumulate)
        if accumulator is not None and layer.op_type in ACCUMULATES:
            result = run_in_chunks(layer, step.kernel, inputs, accumulator)
        elif ports.hidden:
            hidden = hidden_quantizer(layer, scheme, self._ranges)
            result = step.kernel(*inputs, hidden=hidden)
        else:
            result = step.kernel(*inputs)
        bias = self._biases.get(step.layer)
        if bias is not None and isinstance(result, Tensor):
            result = add_bias(result, bias, layer)
        return round_output(result, self._base)

    def _quantized(
        self, read: Read, spec: Spec, inputs: Sequence[Tensor | None], layer: str
    ) -> Tensor | None:
        key = read.key(spec)
        self._left[key] -= 1
        known = self._shared.get(key)
        if known is None:
            x = inputs[read.index]
            if x is None:
                return None
            known = quantize_input(x, spec, read, self._ranges, layer)
        if self._left[key] > 0:
            self._shared[key] = known
        else:
            self._shared.pop(key, None)
        return known


def hidden_quantizer(
    layer: Layer, scheme: Scheme, ranges: LearnedRanges
) -> Callable[[Tensor], Tensor]:
    """Return what the operand inside a layer goes through.

    Casts do not reach it: it stays in what sums are kept in. The state of an RNN is not bounded (its activation may be Relu), so that its range is taken live.
    """
    if scheme.activation.is_cast:
        return lambda x: x
    value = layer.name if layer.op_type == "RNN" else ""
    spec, read = scheme.activation, Read(-1, value, -1, 1)
    return lambda x: quantize_input(x, spec, read, ranges, f"{layer.name}: internal")


def round_output(result: object, base: Scheme) -> object:
    """Return a layer's output rounded to the base format; other outputs stay as they are."""
    if isinstance(result, tuple):
        return tuple(_round(x, base) if isinstance(x, Tensor) else x for x in result)
    return _round(result, base) if isinstance(result, Tensor) else result


def _round(x: Tensor, base: Scheme) -> Tensor:
    if not x.is_floating_point():
        return x
    rounded = _cast(x, base.activation.format)
    if rounded is not None:
        return rounded
    return quantize_activation(x, base.activation, reduction_axis=-1).to(x.dtype)
