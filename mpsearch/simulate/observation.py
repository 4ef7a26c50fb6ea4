"""One pass of the fp32 program over the data: ranges, magnitudes, reference outputs, sizes."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.errors import ModelError, NumericsError
from mpsearch.formats import find_format
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.numerics.range import Range
from mpsearch.numerics.ranges import RangeObserver, make_range
from mpsearch.program.program import Program, Step, Values
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.schemes import Scheme, Spec


class SilentActivationWarning(UserWarning):
    """An activation is zero on all calibration data, so its range was never seen."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the fp32 model showed on some data.

    Attributes:
        observers: Of every tensor that a layer reads as an activation or produces, by value name.
        references: For each batch, the values of the heads.
        slot_bytes: Bytes of every slot in the first batch.
    """

    observers: Mapping[str, RangeObserver]
    references: tuple[tuple[Tensor, ...], ...]
    slot_bytes: Mapping[int, int]


def activation_inputs(layer: Layer) -> dict[int, tuple[str, int, int]]:
    """Input index of each activation operand to (value name, reduction axis, groups)."""
    operands: dict[int, tuple[str, int, int]] = {}
    for gemm in layer.gemms:
        for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
            if operand.value and operand.input_index >= 0:
                operands.setdefault(
                    operand.input_index, (operand.value, operand.reduction_axis, operand.groups)
                )
    return operands


def observe_model(
    graph: ModelGraph,
    program: Program,
    batches: Iterable[Mapping[str, Tensor]],
    head_values: Sequence[str],
) -> Observation:
    """Run the fp32 program over all batches once.

    Raises:
        NumericsError: A weight, or a layer's input or output is not finite; the message names both.
        ModelError: A weight has a type that no scheme is for.
    """
    _check_types(graph, program)
    observers: dict[str, RangeObserver] = {}
    for layer in graph.layers:
        for name in (*(value for value, _, _ in activation_inputs(layer).values()), layer.output):
            if name not in observers:
                observers[name] = RangeObserver(name=f"{name} of layer {layer.name}")
    slots = [program.slots[name] for name in head_values]
    schedule = make_schedule(program, slots)
    sizes: dict[int, int] = {}
    seen: set[str] = set()

    def observe(name: str, tensor: object) -> None:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and name not in seen:
            observers[name].observe(tensor)

    def call(step: Step, inputs: list[Tensor | None]) -> object:
        layer = graph.layers[step.layer]
        for index, (value, _, _) in activation_inputs(layer).items():
            observe(value, inputs[index])
            if step.layer in top_level:
                seen.add(value)  # once a batch, however many layers read it
        result = step.kernel(*inputs)
        observe(layer.output, result[0] if isinstance(result, tuple) else result)
        return result

    def measure(step: Step, values: Values) -> None:
        for slot in step.outputs:
            tensor = values[slot] if slot >= 0 else None
            if tensor is not None:
                sizes[slot] = tensor.numel() * tensor.element_size()

    def run(values: Values) -> None:
        try:
            run_schedule(schedule, values, call=call, watch=None if references else measure)
        except NumericsError as error:
            raise _blame_weights(graph, program) or error from None

    top_level = {step.layer for step in program.steps}
    references: list[tuple[Tensor, ...]] = []
    for batch in batches:
        values = program.make_values()
        for name, tensor in batch.items():
            values[program.slots[name]] = tensor
        seen.clear()
        with torch.no_grad():
            run(values)
        found = [values[slot] for slot in slots]
        references.append(tuple(tensor.clone() for tensor in found if tensor is not None))
    return Observation(observers, tuple(references), sizes)


def _check_types(graph: ModelGraph, program: Program) -> None:
    for layer, name, weight in _weights(graph, program):
        if weight.dtype == torch.float64:
            raise ModelError(
                f"weights must be float32, float16 or bfloat16, but {name!r} of layer {layer!r} is float64; "
                "export the model in float32 (torch: module.float())"
            )


def _blame_weights(graph: ModelGraph, program: Program) -> NumericsError | None:
    """The first weight that is not finite: what a layer gives is then no fault of the data."""
    for layer, name, weight in _weights(graph, program):
        bad = ~torch.isfinite(weight.float())
        if bool(bad.any()):
            where = ", ".join(str(int(i)) for i in bad.nonzero()[0])
            return NumericsError(
                f"weights must be finite, but {name!r} of layer {layer!r} holds {int(bad.sum())} NaN or "
                f"Inf among {weight.numel()} values, the first at [{where}]"
            )
    return None


def _weights(graph: ModelGraph, program: Program) -> Iterator[tuple[str, str, Tensor]]:
    """Layer, initialiser and tensor of every weight that stands in ``program`` itself."""
    for layer in graph.layers:
        for gemm in layer.gemms:
            slot = program.slots.get(gemm.right.value, -1)
            if gemm.has_weight and slot in program.constants:
                yield layer.name, gemm.right.source or gemm.right.value, program.constants[slot]


def find_overflows(
    graph: ModelGraph,
    observation: Observation,
    weight_amax: Sequence[float],
    schemes: Sequence[Scheme],
    base: str,
) -> dict[tuple[str, str], str]:
    """Return (group, scheme) names to why the scheme overflows there.

    Raises:
        NumericsError: The base format itself overflows; the message proposes bf16.
    """
    reasons: dict[tuple[str, str], str] = {}
    for group in graph.groups:
        for index in group.layers:
            layer = graph.layers[index]
            inputs = [
                _amax(observation, value) for value, _, _ in activation_inputs(layer).values()
            ]
            _check_base(layer, "output", _amax(observation, layer.output), base)
            for scheme in schemes:
                is_base = scheme.name == base
                tensors = [("input", amax, scheme.activation) for amax in inputs]
                tensors.append(("weight", weight_amax[index], scheme.weight))
                for what, amax, spec in tensors:
                    if not _overflows(amax, spec):
                        continue
                    if is_base:
                        _check_base(layer, what, amax, base)
                    reasons.setdefault(
                        (group.name, scheme.name),
                        f"{spec.format} overflows: {layer.name!r} has amax {amax:.4g} at its {what}, "
                        f"beyond {spec.element.max_value:g}",
                    )
    return reasons


def _amax(observation: Observation, value: str) -> float:
    observer = observation.observers.get(value)
    return max(-observer.low, observer.high) if observer is not None else 0.0


def _overflows(amax: float, spec: Spec) -> bool:
    return spec.is_cast and spec.element.overflow == "inf" and amax > spec.element.max_value


def _check_base(layer: Layer, what: str, amax: float, base: str) -> None:
    limit = find_format(base).max_value
    if amax > limit:
        raise NumericsError(
            f"the base {base} must hold every layer on the calibration data, but layer {layer.name!r} "
            f"has amax {amax:.4g} at its {what}, beyond {limit:g}; use --base bf16"
        )


def make_ranges(
    graph: ModelGraph, observation: Observation, schemes: Sequence[Scheme]
) -> dict[tuple[str, Spec], Range]:
    """Return (value name, spec) to the range of all activations for all static specs of ``schemes``.

    Operands inside an operator (name "") are hidden states and attention's probabilities, which
    do not leave [-1, 1]. Warns of values that are zero on all of the data: a range that was never seen makes
    them zero for ever.
    """
    specs = {s.activation for s in schemes}
    specs = {spec for spec in specs if not spec.is_cast and spec.range == "static"}
    if any(spec.granularity == "tensor" or spec.tensor_scale for spec in specs):
        _warn_silent(graph, observation)
    ranges = {("", spec): make_range(-1.0, 1.0, spec) for spec in specs}
    for layer in graph.layers:
        for value, _, _ in activation_inputs(layer).values():
            for spec in specs:
                if (value, spec) not in ranges:
                    ranges[value, spec] = observation.observers[value].finish(spec)
    return ranges


def _warn_silent(graph: ModelGraph, observation: Observation) -> None:
    for layer in graph.layers:
        for value, _, _ in activation_inputs(layer).values():
            seen = observation.observers[value]
            if seen.low == seen.high == 0.0:
                warnings.warn(
                    f"{value!r}, which layer {layer.name!r} reads, is zero on all calibration samples, or in a branch that none takes: its range was "
                    "never seen, and schemes with calibrated ranges make it zero on any other; give samples that use it",
                    SilentActivationWarning,
                    stacklevel=2,
                )


def static_ranges(graph: ModelGraph, chosen: Mapping[int, Scheme]) -> tuple[tuple[str, Spec], ...]:
    """Return (value name, spec) of the ranges that layers in the schemes ``chosen`` read, each once."""
    used = {
        (value, scheme.activation): None
        for i, scheme in chosen.items()
        for value, _, _ in activation_inputs(graph.layers[i]).values()
        if not scheme.activation.is_cast and scheme.activation.range == "static"
    }
    return tuple(used)
