"""Quantised tensors in the user's own graph: QuantizeLinear and its kin."""

import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, constant_kernel, integer
from mpsearch.program.operators.casting import cast
from mpsearch.program.tensors import ELEMENT_TYPES

_LIMITS = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int2": (-2, 1),
    "uint2": (0, 3),
    "int32": (-(2**31), 2**31 - 1),
}


def spread(scale: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Return a scale or zero point that broadcasts over ``x``: per tensor, axis or block."""
    if scale.numel() == 1 and scale.ndim <= 1:
        return scale.reshape(())
    if scale.ndim == 1 and not block:
        shape = [1] * x.ndim
        shape[axis] = -1
        return scale.reshape(shape)
    if block:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return scale


def _quantise(node: Node) -> Kernel:
    axis, block = integer(node, "axis", 1), integer(node, "block_size", 0)
    saturate, to = bool(integer(node, "saturate", 1)), integer(node, "output_dtype", 0)
    named = node.attributes.get("zero_point_type")  # known to the program: the carrier hides it

    def kernel(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        name = ELEMENT_TYPES[to] if to else (str(named) if named else _name(zero))
        wide = torch.promote_types(x.dtype, scale.dtype)
        wide = wide if wide.is_floating_point else torch.float32
        ratio = x.to(wide) / spread(scale, x, axis, block).to(wide)
        if name not in _LIMITS:
            return cast(ratio, name, saturate=saturate)
        low, high = _LIMITS[name]
        shift = 0 if zero is None else spread(zero, x, axis, block).to(wide)
        return cast((torch.round(ratio) + shift).clamp(low, high), name)

    return kernel


def _name(zero: Tensor | None) -> str:
    return "uint8" if zero is None else str(zero.dtype).removeprefix("torch.")


def _dequantise(node: Node) -> Kernel:
    axis, block = integer(node, "axis", 1), integer(node, "block_size", 0)
    to = integer(node, "output_dtype", 0)

    def kernel(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        kind = torch.promote_types(scale.dtype, torch.float32)
        wide = x.to(kind)
        if zero is not None:
            wide = wide - spread(zero, x, axis, block).to(kind)
        y = wide * spread(scale, x, axis, block).to(kind)
        return cast(y, ELEMENT_TYPES[to]) if to else y.to(scale.dtype)

    return kernel


def _dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((0 - low) / safe).clamp(0, 255)
    y = (torch.round(x / safe) + zero).clamp(0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)


BUILDERS: dict[str, Builder] = {
    "DequantizeLinear": _dequantise,
    "DynamicQuantizeLinear": constant_kernel(_dynamic),
    "QuantizeLinear": _quantise,
}
