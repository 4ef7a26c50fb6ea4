"""What a plan adds to a model in fp32 and takes from it: kernels, roundings, ways back and changes of layout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from mpsearch.cost.executed.kernel_shapes import find_sizes
from mpsearch.cost.executed.network import Network
from mpsearch.cost.executed.onnxruntime import (
    Executed,
    executed_layers,
    is_static_int8,
    reads_codes,
)
from mpsearch.cost.executed.table import MeasuredBoundary, MeasuredKernel
from mpsearch.schemes import Scheme

_NOTHING = MeasuredBoundary(shape="")
Kind = Literal["kernel", "rounding", "way back", "layout"]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a plan runs, or no longer runs, beside what the model runs in fp32.

    Attributes:
        kind: A layer's kernel, a rounding to 8 bits, the way back from it, or a change of layout.
        name: The layer, or the tensor.
        us: What it takes; less than 0 where it falls away.
    """

    kind: Kind
    name: str
    us: float


def network_us(network: Network, schemes: Sequence[Scheme]) -> float:
    """Return the latency of the model with ``schemes`` [L], in microseconds."""
    return network.model.float_us + sum(step.us for step in find_steps(network, schemes))


def find_steps(network: Network, schemes: Sequence[Scheme]) -> Iterator[Step]:
    """Yield what ``schemes`` [L] change of the model in fp32."""
    executed = executed_kernels(network, schemes)
    layers = network.view.graph.layers
    kernels = zip(layers, executed, network.floats, network.integers, strict=True)
    for layer, how, kernel, integer in kernels:
        if how.is_integer and kernel is not None and integer is not None:
            yield Step("kernel", layer.name, -kernel.us)
            yield Step("kernel", layer.name, integer.us)
    if network.table.runtime == "onnxruntime":
        yield from _boundaries(network, schemes, executed)


def executed_kernels(network: Network, schemes: Sequence[Scheme]) -> Sequence[Executed]:
    """Return how each layer runs."""
    if network.table.runtime == "onnxruntime":
        return executed_layers(network.view, schemes)
    return [
        Executed(is_static_int8(scheme) and integer is not None)
        for scheme, integer in zip(schemes, network.integers, strict=True)
    ]


def _boundaries(
    network: Network, schemes: Sequence[Scheme], executed: Sequence[Executed]
) -> Iterator[Step]:
    layers, plain = network.view.graph.layers, set(network.model.plain)
    entered = set(network.model.entered)
    coded = {how.rounded: i for i, how in enumerate(executed) if how.rounded}
    joins = _joins(network, executed)
    joined = {executed[i].rounded for parts in joins.values() for i in parts}
    for value, reading in _rounded(network, schemes).items():
        known = _boundary(network, value)
        in_codes = [i for i in reading if reads_codes(network.view, i, schemes[i])]
        convs = [i for i in in_codes if layers[i].op_type == "Conv"]
        integer = [i for i in convs if executed[i].is_integer]
        into = max((_enter(network.floats[i]) for i in convs), default=0.0)
        is_read_too = len(convs) < _all_convs(network, value)
        if len(in_codes) < len(reading):
            yield Step("rounding", value, known.emulate_us)
        if value in coded and value not in joined:
            if len(integer) < len(reading):
                yield Step("layout", value, _leave(network.integers[coded[value]]))
        elif integer:
            yield Step("layout", value, max(_enter(network.integers[i]) for i in integer))
        if in_codes and value not in coded:
            yield Step("rounding", value, known.quantize_us)
            if into and value not in plain and value in network.view.producers:
                yield Step("layout", value, into)  # back from blocks: about what going there takes
        if not all(executed[i].is_integer for i in in_codes):
            yield Step("way back", value, known.dequantize_us)
            if into and (value not in entered or is_read_too):
                yield Step("layout", value, into)
        elif integer and into and value in entered and not is_read_too:
            yield Step("layout", value, -into)
    yield from _join(network, executed, joins)
    for i, how in enumerate(executed):
        given = _given(network, i)
        if how.is_integer and given in plain:
            yield Step("layout", given, -_leave(network.floats[i]))


def _joins(network: Network, executed: Sequence[Executed]) -> dict[str, list[int]]:
    """Results of Concat that are joined in fp32, since not all of their parts are codes of one step, to integer parts."""
    joins: dict[str, list[int]] = {}
    for i, how in enumerate(executed):
        if how.joined:
            joins.setdefault(how.joined, []).append(i)
    return {
        value: parts
        for value, parts in joins.items()
        if any(executed[i].keeps_relu for i in parts)
        or set(network.view.producers[value].inputs) > {executed[i].cut for i in parts}
    }


def _join(
    network: Network, executed: Sequence[Executed], joins: Mapping[str, Sequence[int]]
) -> Iterator[Step]:
    for value, parts in joins.items():
        yield Step("rounding", value, _boundary(network, value).quantize_us)
        for i in parts:
            cut = executed[i].cut
            yield Step("way back", cut, _boundary(network, cut).dequantize_us)
            yield Step("layout", cut, _leave(network.integers[i]))
    own = {_given(network, i): i for i, how in enumerate(executed) if not how.is_integer}
    for value in joins:
        for name in network.view.producers[value].inputs:
            if name in own and name not in network.model.plain:
                yield Step("layout", name, _leave(network.floats[own[name]]))


def _boundary(network: Network, value: str) -> MeasuredBoundary:
    """What rounding ``value`` takes; where its sizes were not measured, by elements from the largest that were."""
    sizes = find_sizes(network.view.graph, value) or ()
    text = "x".join(map(str, sizes))
    found = network.boundaries.get(text)
    known = [b for b in network.boundaries.values() if b.quantize_us]
    if found is not None or not known or not sizes:
        return found or _NOTHING
    largest = max(known, key=lambda boundary: _elements(boundary.shape))
    share = prod(sizes) / _elements(largest.shape)
    return MeasuredBoundary(
        shape=text,
        quantize_us=share * largest.quantize_us,
        dequantize_us=share * largest.dequantize_us,
    )


def _elements(text: str) -> int:
    return prod(map(int, text.split("x")))


def _given(network: Network, index: int) -> str:
    """The tensor that a layer's kernel in fp32 gives: what is behind a Relu that it takes over."""
    output = network.view.graph.layers[index].output
    reading = network.view.readers.get(output, ())
    is_fused = len(reading) == 1 and reading[0].op_type == "Relu"
    return reading[0].outputs[0] if is_fused and output not in network.view.outputs else output


def _rounded(network: Network, schemes: Sequence[Scheme]) -> dict[str, list[int]]:
    """Tensor to the layers that read it in 8 bits."""
    readers: dict[str, list[int]] = {}
    for i, (layer, scheme) in enumerate(zip(network.view.graph.layers, schemes, strict=True)):
        if is_static_int8(scheme):
            gemm = layer.gemms[0]
            for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
                readers.setdefault(operand.value, []).append(i)
    return readers


def _all_convs(network: Network, value: str) -> int:
    return sum(node.op_type == "Conv" for node in network.view.readers.get(value, ()))


def _enter(kernel: MeasuredKernel | None) -> float:
    return kernel.enter_us if kernel is not None else 0.0


def _leave(kernel: MeasuredKernel | None) -> float:
    return kernel.leave_us if kernel is not None else 0.0
