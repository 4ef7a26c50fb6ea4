"""Cast and its kin: one element type to another, with ONNX's saturation."""

import ml_dtypes
import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, refuse, text
from mpsearch.program.tensors import ELEMENT_TYPES, carrier, to_array, to_tensor

_WRAPPED = {"uint16": 16, "uint32": 32, "uint4": 4, "uint2": 2, "int4": 4, "int2": 2}
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


def _wrap(x: Tensor, name: str) -> Tensor:
    """Keep the low bits of an integer as two's complement or unsigned, as C does."""
    bits = _WRAPPED[name]
    low = x.to(torch.int64) & ((1 << bits) - 1)
    if name.startswith("int"):
        low = torch.where(low >= 1 << (bits - 1), low - (1 << bits), low)
    return low.to(carrier(name))


def _to_float8(x: Tensor, name: str, saturate: bool) -> Tensor:
    target = carrier(name)
    limit = torch.finfo(target).max
    x = x.float()
    if saturate:
        # ONNX: finite values and infinities saturate (FNUZ and FN alike), NaN stays
        return x.clamp(-limit, limit).to(target)
    array = to_array(x).astype(getattr(ml_dtypes, name))
    return to_tensor(array, x.device)


def _to_e8m0(x: Tensor, saturate: bool, mode: str) -> Tensor:
    """Powers of two: 2^-127 to 2^127; carried by fp32."""
    mantissa, exponent = torch.frexp(x.float().abs())  # |x| = m · 2^e, m in [0.5, 1)
    power = exponent - 1
    if mode == "up":
        power = power + (mantissa > 0.5).to(power.dtype)
    elif mode == "nearest":
        power = power + (mantissa >= 0.75).to(power.dtype)
    result = torch.ldexp(torch.ones((), device=x.device), power.clamp(-127, 127))
    if not saturate:
        result = torch.where(power > 127, torch.nan, result)
    return torch.where(torch.isnan(x.float()), torch.nan, result)


def cast(x: Tensor, name: str, *, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """Return ``x`` in the carrier of element type ``name``, its values those of that type."""
    if name == "bool":
        return x != 0
    if name in _FLOAT8:
        return _to_float8(x, name, saturate)
    if name == "float8_e8m0fnu":
        return _to_e8m0(x, saturate, round_mode)
    if name == "float4_e2m1fn":
        clamped = x.float().clamp(-6, 6)
        array = to_array(clamped).astype(ml_dtypes.float4_e2m1fn)
        return to_tensor(array.astype("float32"), x.device)
    if name in _WRAPPED and x.dtype != torch.bool:
        if x.is_floating_point():
            x = x.float() if x.dtype.itemsize < 4 else x
        return _wrap(x, name)
    if x.dtype.itemsize == 1 and x.is_floating_point():
        x = x.float()
    return x.to(carrier(name))


def _cast(node: Node) -> Kernel:
    number = integer(node, "to", 1)
    if number not in ELEMENT_TYPES:
        raise refuse(node, f"a cast to element type {number}")
    name = ELEMENT_TYPES[number]
    saturate, mode = bool(integer(node, "saturate", 1)), text(node, "round_mode", "up")
    if name in ("float32", "float64", "float16", "bfloat16", "int64", "int32"):
        target = carrier(name)
        return lambda x: x.to(target)
    return lambda x: cast(x, name, saturate=saturate, round_mode=mode)


def _cast_like(node: Node) -> Kernel:
    saturate = bool(integer(node, "saturate", 1))
    float8 = {carrier(name): name for name in _FLOAT8}

    def kernel(x: Tensor, like: Tensor) -> Tensor:
        if like.dtype in float8:
            return _to_float8(x, float8[like.dtype], saturate)
        return x != 0 if like.dtype == torch.bool else x.to(like.dtype)

    return kernel


BUILDERS: dict[str, Builder] = {"Cast": _cast, "CastLike": _cast_like}
