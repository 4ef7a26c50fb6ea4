"""The grid of a format's elements, and rounding to it in plain torch, exact on every bit pattern.

A float format is a grid on the line: steps of ``2**(e - mantissa_bits)`` in the binade of exponent e,
and the step of the smallest normal binade below it. ``|x| + c`` with ``c = 2**(e + 23 - mantissa_bits)``
is rounded by the fp32 adder to a multiple of that step, ties to the even code, because the last place of
every fp32 number in [c, 2c) is worth exactly one step. Subtracting c is exact. An integer format is
the same grid with its whole range below the smallest normal.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.formats import Format

EXPONENT_MASK = 0x7F800000
"""Exponent field of the fp32 pattern; the pattern of +Inf."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A format's elements as the numbers that rounding needs.

    Attributes:
        shift: ``23 - mantissa_bits``, in the exponent field of the fp32 pattern.
        floor: Pattern of the smallest normal; binades below it share its step.
        cap: Magnitudes are cut to this first: the maximum, or the next power of two if that is Inf.
        max_value: Largest finite magnitude.
        flush: Magnitudes below this become zero; 0 keeps subnormals.
    """

    shift: int
    floor: int
    cap: float
    max_value: float
    flush: float


@cache
def find_grid(format: Format, *, subnormals: bool = True) -> Grid:
    """Return the grid of an integer format, or of a float format of at most 5 exponent bits.

    Args:
        format: The element format; any exponent bias.
        subnormals: False flushes results below the smallest normal to zero.
    """
    mantissa = format.mantissa_bits
    normal = 2.0**mantissa if format.kind == "int" else format.min_normal
    cap = format.max_value if format.overflow == "saturate" else 2.0 ** (format.max_exponent + 1)
    floor = int(torch.tensor(normal).view(torch.int32).item())
    flush = 0.0 if subnormals or format.kind == "int" else normal
    return Grid((23 - mantissa) << 23, floor, cap, format.max_value, flush)


def round_to_grid(x: Tensor, grid: Grid) -> Tensor:
    """Round fp32 ``x`` of any shape to the grid, ties to even; NaN stays NaN."""
    magnitude = x.abs().clamp_(max=grid.cap)
    field = magnitude.view(torch.int32) & EXPONENT_MASK
    offset = field.clamp_(min=grid.floor).add_(grid.shift).view(torch.float32)
    magnitude.add_(offset).sub_(offset)
    if grid.flush:
        magnitude[magnitude < grid.flush] = 0.0
    if grid.cap > grid.max_value:
        magnitude[magnitude > grid.max_value] = torch.inf
    return magnitude.copysign_(x)


def as_float32(x: Tensor) -> Tensor:
    """Return ``x`` as fp32 where that is exact.

    Raises:
        SchemeError: ``x`` is no float tensor, or fp64, which would be rounded twice.
    """
    if x.dtype == torch.float32:
        return x
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    raise SchemeError(f"the tensor must be float32, float16 or bfloat16, got {x.dtype}")


def _round_pattern(x: Tensor, dropped: int) -> Tensor:
    """Round away the last ``dropped`` bits of the fp32 pattern (tf32, bf16: fp32's exponents)."""
    bits = x.view(torch.int32)
    half = ((bits >> dropped) & 1) + ((1 << (dropped - 1)) - 1)
    rounded = ((bits + half) & -(1 << dropped)).view(torch.float32)
    return torch.where(x.isnan(), x, rounded)


def _round_exponent(x: Tensor) -> Tensor:
    bits = x.clamp(2.0**-127, 2.0**127).view(torch.int32)
    # 2**-127 is a subnormal of fp32; between it and 2**-126 ml_dtypes rounds up, and so do we.
    rounded = torch.where(bits <= 0x400000, 0x400000, (bits + 0x400000) & EXPONENT_MASK)
    return torch.where(x > 0, rounded.to(torch.int32).view(torch.float32), torch.nan)


def round_plain(x: Tensor, format: Format, *, subnormals: bool = True) -> Tensor:
    """Return fp32 ``x`` rounded as :func:`mpsearch.numerics.elements.round_elements` says, by torch alone."""
    if format.name == "fp32":
        return x
    if format.kind == "exponent":
        return _round_exponent(x)
    if format.exponent_bits == 8:
        rounded = _round_pattern(x, 23 - format.mantissa_bits)
        if not subnormals:
            rounded[rounded.abs() < format.min_normal] = 0.0
        return rounded
    return round_to_grid(x, find_grid(format, subnormals=subnormals))
