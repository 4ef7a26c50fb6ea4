"""The rounding that a runtime documents, applied to an activation before the simulation rounds it again.

A runtime that takes fp32 to fp8 through fp16 rounds some ties the other way. Rounding is idempotent: what is
fed already rounded to the simulation comes out unchanged, so the rest of the layer is compared as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpsearch.formats import find_format
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.layout import find_layout
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.numerics.scales import choose_steps, tensor_scale
from mpsearch.numerics.tiles import cut_tiles, join_tiles
from mpsearch.schemes import Spec

_FP8 = ("e4m3", "e5m2")


@dataclass(frozen=True, slots=True)
class Rounding:
    """What a runtime documents about its rounding.

    Attributes:
        through_half: fp32 goes to fp8 through fp16.
        left_out: 16-bit formats whose casts there and back are left out: such layers compute in fp32.
        byte_codes: Value → lowest and highest code of those whose static int8 codes use their whole byte.
        biases: Convolution → its bias in whole units of its integer products, as fp32.
        in_bf16: Weights, activations and their scales are bf16, and so is what rounds them, as compressed-tensors does it.
    """

    through_half: bool = False
    left_out: frozenset[str] = frozenset()
    byte_codes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    in_bf16: bool = False


EXACT = Rounding()


def round_through_half(
    x: Tensor, spec: Spec, found: Range | None, *, reduction_axis: int, groups: int = 1
) -> Tensor:
    """Return ``x`` in ``spec`` as a runtime has it that takes fp32 to fp8 through fp16.

    Args:
        x: fp32 activation.
        spec: Activation spec; those without fp8 elements or scales give ``x`` itself.
        found: Calibrated range of static specs.
        reduction_axis: Axis along which blocks run.
        groups: Convolution groups that the axis spans.
    """
    if spec.is_cast or not (spec.format in _FP8 or spec.scale_format in _FP8):
        return x
    static = found if spec.range == "static" else None
    if spec.granularity == "tensor":
        step = torch.tensor(static.scale) if static else choose_steps(x.abs().max(), spec)
        return _quantize(x, step, spec)
    layout = find_layout(
        tuple(x.shape),
        reduction_axis=reduction_axis,
        groups=groups if spec.block_shape is not None else 1,
    )
    rows = layout.to_rows(x)
    tiles = cut_tiles(rows, spec)
    amax = tiles.abs().amax((1, 4), keepdim=True)
    if spec.tensor_scale:
        g = static.scale if static else tensor_scale(float(x.abs().max()), spec)
        unit = torch.tensor(spec.element.max_value) * torch.tensor(g)
        stored = find_format(str(spec.scale_format))
        ratio = torch.where(amax == 0, 0.0, amax / unit).clamp(max=stored.max_value)
        steps = round_elements(ratio.half().float(), stored) * torch.tensor(g)
    else:
        steps = choose_steps(amax, spec)
    shape = (rows.shape[0], rows.shape[1], rows.shape[2])
    return layout.from_rows(join_tiles(_quantize(tiles, steps, spec), shape))


_STEPS_OF_INT8 = 127.5
"""What compressed-tensors divides a live amax by, in the place of 127: half of its range of codes -128 to 127."""
_LEAST_BLOCK_SCALE = 0.125
"""What compressed-tensors takes for e4m3 block scales that are 0."""


def round_in_bf16(x: Tensor, spec: Spec, found: Range | None) -> Tensor:
    """Return ``x`` in ``spec`` as compressed-tensors has it in bf16 (``quantization/lifecycle/forward_helpers.py``).

    Scales and units are rounded to bf16 before elements are, except for nvfp4, whose steps are fp32.

    Args:
        x: Activation; blocks and tokens run along its last axis.
        spec: Activation spec that a compressed-tensors checkpoint can hold.
        found: Calibrated range of static specs.

    Returns:
        bf16 values in fp32, same shape.
    """
    x = x.bfloat16()
    if spec.is_cast:
        return x.float()
    top = spec.element.max_value
    low = -top - 1 if spec.element.kind == "int" else -top
    width = spec.block_shape[1] if spec.block_shape is not None else x.shape[-1]
    tiles = x.unflatten(-1, (-1, width))
    amax = tiles.abs().amax(-1, keepdim=True)
    if spec.tensor_scale:
        g = _reciprocal(found.scale if found else 1.0)
        scales = round_elements(
            (g * (amax / top).float()).clamp(max=find_format("e4m3").max_value), find_format("e4m3")
        )
        steps = torch.where(scales == 0, _LEAST_BLOCK_SCALE, scales) / g
        rounded = round_elements((tiles.float() / steps).clamp(low, top), spec.element) * steps
        return rounded.bfloat16().float().flatten(-2)
    if spec.range == "static" and found is not None:
        steps = torch.tensor(found.scale or 1.0).bfloat16()
    else:
        steps = amax / (_STEPS_OF_INT8 if spec.element.kind == "int" else top)
        steps = torch.where(steps == 0, torch.finfo(torch.bfloat16).eps, steps)
    units = (tiles / steps).clamp(low, top).float()
    rounded = units.round() if spec.element.kind == "int" else round_elements(units, spec.element)
    return (rounded.bfloat16() * steps).float().flatten(-2)


def weight_in_bf16(weight: QuantizedTensor) -> Tensor:
    """Return a weight as compressed-tensors dequantises it to bf16: fp32, in the tensor's own shape."""
    if weight.scales is None:
        return weight.layout.from_rows(weight.codes.bfloat16().float())
    tiles = cut_tiles(weight.codes, weight.spec)
    steps = weight.scales[:, None, :, :, None]
    if weight.spec.tensor_scale:
        values = tiles * (steps / _reciprocal(weight.tensor_scale))
    else:
        values = tiles * steps.bfloat16().float()
    shape = (weight.layout.rows, weight.layout.positions, weight.layout.channels)
    return weight.layout.from_rows(join_tiles(values.bfloat16().float(), shape))


def _reciprocal(scale: float) -> Tensor:
    return 1 / torch.tensor(scale or 1.0, dtype=torch.float32)


def _quantize(x: Tensor, steps: Tensor, spec: Spec) -> Tensor:
    units = x / torch.where(steps == 0, torch.inf, steps)
    if spec.format in _FP8:
        limit = spec.element.max_value
        units = units.clamp(-limit, limit).half().float()
    return round_elements(units, spec.element) * steps
