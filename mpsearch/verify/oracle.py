"""The simulation with a runtime's documented rounding in it.

A runtime that takes fp32 to fp8 through fp16 rounds some values the other way, and one that computes 16-bit
layers in fp32 leaves their casts out. In a deep model such differences grow to the size of the quantisation
itself, so the whole model is compared with a simulation that rounds in the same way.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.cost.executed.onnxruntime import is_static_int8_activation
from mpsearch.graph.model import Layer, ModelGraph, Operand
from mpsearch.numerics.quantize import quantize_activation
from mpsearch.plan.plan import Plan
from mpsearch.program.program import Program, Step
from mpsearch.program.schedule import LayerCall, make_schedule, run_schedule
from mpsearch.runtimes.rounding import Rounding, round_in_bf16, round_through_half
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.changes import add_bias

_NUDGE = 2.0**-16
"""Relative distance from a rounding boundary within which runtimes may round either way: they multiply by
reciprocals, or scale codes in another order."""


_NATIVE = {"fp16": torch.float16, "bf16": torch.bfloat16}
_ELEMENT_TYPES = {"fp16": 10, "bf16": 16}  # of onnx.TensorProto
_FLOAT = 1
_BIAS = 2  # a convolution's input


def widen(graph: ModelGraph, formats: Collection[str]) -> ModelGraph:
    """Return ``graph`` with its own tensors of ``formats``, 16-bit ones that a runtime leaves out, in fp32."""
    kinds = {_ELEMENT_TYPES[name] for name in formats}
    dtypes = {str(_NATIVE[name]).removeprefix("torch.") for name in formats}

    def attribute(name: str, value: object) -> object:
        if name in ("to", "dtype", "output_dtype") and value in kinds:
            return _FLOAT
        return array(value) if isinstance(value, np.ndarray) else value

    def array(value: NDArray[np.generic]) -> NDArray[np.generic]:
        return value.astype(np.float32) if value.dtype.name in dtypes else value

    nodes = tuple(
        replace(node, attributes={n: attribute(n, v) for n, v in node.attributes.items()})
        for node in graph.nodes
    )
    return replace(
        graph,
        nodes=nodes,
        constants={name: array(graph.constants[name]) for name in graph.constants},
        values={
            name: replace(value, dtype="float32") if value.dtype in dtypes else value
            for name, value in graph.values.items()
        },
    )


def read_operands(layer: Layer) -> tuple[Operand, ...]:
    """Return the activation operands that ``layer`` reads, each input of the node once."""
    found: dict[int, Operand] = {}
    for gemm in layer.gemms:
        for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
            if operand.input_index >= 0 and operand.value != layer.output:
                found.setdefault(operand.input_index, operand)
    return tuple(found.values())


def round_activation(
    x: Tensor, spec: Spec, operand: Operand, plan: Plan, rounding: Rounding
) -> Tensor:
    """Return ``x`` as the runtime has it after it rounded it to ``spec``."""
    if rounding.in_bf16:
        return round_in_bf16(x, spec, plan.find_range(operand.value, spec))
    if spec.is_cast and (spec.format == "fp32" or spec.format in rounding.left_out):
        return x
    found = plan.find_range(operand.value, spec)
    codes = rounding.byte_codes.get(operand.value)
    if codes is not None and found is not None and is_static_int8_activation(spec):
        step = found.scale or 1.0
        return (torch.round(x / step).clamp(*codes) * step).to(x.dtype)
    axes = {"reduction_axis": operand.reduction_axis, "groups": operand.groups}
    if rounding.through_half:
        rounded = round_through_half(x, spec, found, **axes)
        if rounded is not x:
            return rounded.to(x.dtype)
    return quantize_activation(x, spec, range=found, name=operand.value, **axes).to(x.dtype)


def settle_ties(
    x: Tensor, seen: Tensor, spec: Spec, operand: Operand, plan: Plan, rounding: Rounding
) -> Tensor:
    """Return ``x`` rounded to ``spec``, next to a rounding boundary as the runtime did it.

    Args:
        x: What the runtime rounded.
        seen: What it made of it; trusted only where ``x`` moved by 2**-16 of itself rounds to it.
        spec: Activation spec; not a cast.
        operand: Where ``x`` is read.
        plan: Gives ranges.
        rounding: What the runtime documents.
    """
    settled = round_activation(x, spec, operand, plan, rounding)
    for factor in (1 + _NUDGE, 1 - _NUDGE):
        other = round_activation(x * factor, spec, operand, plan, rounding)
        closer = (other - seen).abs() < (settled - seen).abs()
        settled = torch.where(closer, other, settled)
    return settled


def call_documented(
    graph: ModelGraph,
    plan: Plan,
    schemes: Sequence[Scheme],
    weight: Callable[[int, int], Tensor],
    rounding: Rounding,
    biases: Mapping[int, Tensor] = {},
) -> LayerCall:
    """Return what runs a layer of the plan with a runtime's documented rounding.

    Tensors of a 16-bit type that the runtime leaves out are widened to fp32, and so is what the layer gives.

    Args:
        graph: The model.
        plan: Gives ranges and the base.
        schemes: [L] scheme of each layer.
        weight: (layer, gemm) to the simulated weight.
        rounding: What the runtime documents.
        biases: Layer to what is added to its output along its channels, where ``rounding`` does not hold it.
    """
    base = plan.schemes[plan.base].activation
    left_out = {_NATIVE[name] for name in rounding.left_out}

    def call(step: Step, inputs: list[Tensor | None]) -> object:
        layer, spec = graph.layers[step.layer], schemes[step.layer].activation
        inputs = [x.float() if x is not None and x.dtype in left_out else x for x in inputs]
        for operand in read_operands(layer):
            x = inputs[operand.input_index]
            if x is not None:
                inputs[operand.input_index] = round_activation(x, spec, operand, plan, rounding)
        for number, gemm in enumerate(layer.gemms):
            if gemm.has_weight:
                inputs[gemm.right.input_index] = weight(step.layer, number)
        if layer.name in rounding.biases:
            inputs += [None] * (_BIAS + 1 - len(inputs))
            inputs[_BIAS] = rounding.biases[layer.name]
        result = step.kernel(*inputs)
        output = Operand(layer.output, "", 0, -1)
        if isinstance(result, tuple):
            return tuple(round_activation(x, base, output, plan, rounding) for x in result)
        assert isinstance(result, Tensor)
        if step.layer in biases:
            result = add_bias(result, biases[step.layer], layer)
        return round_activation(result, base, output, plan, rounding)

    return call


def run_documented(
    program: Program, call: LayerCall, feeds: Mapping[str, Tensor], *, in_bf16: bool = False
) -> dict[str, Tensor]:
    """Return the outputs of the whole plan on ``feeds``, its layers run by ``call``.

    Args:
        program: The fp32 program.
        call: Runs a layer.
        feeds: Input name to tensor.
        in_bf16: Whether all that stands between layers is bf16, as in a model that was cast to it.
    """
    slots = [program.slots[name] for name in program.outputs]
    values = program.make_values()
    for name, tensor in feeds.items():
        values[program.slots[name]] = tensor
    if in_bf16:
        values = [x if x is None or x.numel() < 2 else _to_bf16(x) for x in values]
    with torch.no_grad():
        schedule = make_schedule(program, slots)
        run_schedule(schedule, values, call=call, watch=_round_between if in_bf16 else None)
    found = zip(program.outputs, (values[slot] for slot in slots), strict=True)
    return {name: tensor for name, tensor in found if tensor is not None}


_INNER = ("Pow", "ReduceMean", "Sqrt", "Reciprocal", "Sigmoid", "Erf", "Tanh")
"""Operators inside of what models compute in fp32, or in one operator, before they round: norms and activations."""


def _round_between(step: Step, values: list[Tensor | None]) -> None:
    """Round to bf16 what ``step`` gave, where a model in bf16 does: not inside of norms, whose means are fp32."""
    if step.layer >= 0 or step.node.op_type in _INNER:
        return
    for slot in step.outputs:
        found = values[slot]
        if found is not None and found.ndim and found.shape[-1] > 1:
            values[slot] = _to_bf16(found)


def _to_bf16(x: Tensor) -> Tensor:
    return x.bfloat16().float() if x.dtype == torch.float32 else x
