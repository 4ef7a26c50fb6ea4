"""Element formats: how one number is encoded. Facts only; standard library only.

Sources: IEEE 754-2019 (fp32, fp16), OCP 8-bit Floating Point Specification v1.0 (e4m3, e5m2),
OCP Microscaling Formats (MX) v1.0 (e3m2, e2m3, e2m1, e8m0).
"""

from dataclasses import dataclass, replace
from math import frexp
from types import MappingProxyType
from typing import Literal

from mpsearch.errors import SchemeError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Format:
    """Encoding of one element, without any scale.

    Attributes:
        name: The field's name for it: ``e4m3``, ``int8``.
        kind: ``float``, ``int`` (two's complement, used symmetrically) or ``exponent`` (e8m0: powers of two).
        bits: Stored bits of one element (tf32 is stored as fp32).
        exponent_bits: Bits of the exponent; 0 for integers.
        mantissa_bits: Explicit bits of the significand; for integers the bits of the magnitude.
        bias: Exponent bias; 0 for integers.
        max_value: Largest finite magnitude.
        overflow: ``inf`` (fp32, tf32, bf16, fp16) or ``saturate`` (all that is narrower).
        rate: Key of a device's peak rates that a multiplication in this format runs at.
    """

    name: str
    kind: Literal["float", "int", "exponent"]
    bits: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    max_value: float
    overflow: Literal["inf", "saturate"]
    rate: str

    @property
    def min_normal(self) -> float:
        """Smallest normal magnitude; 1 for integers."""
        return 2.0 ** (1 - self.bias) if self.kind == "float" else 1.0

    @property
    def min_subnormal(self) -> float:
        """Smallest non-zero magnitude; 1 for integers."""
        return self.min_normal * 2.0**-self.mantissa_bits if self.kind == "float" else 1.0

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value: OCP MX calls it emax (e2m1: 2, e4m3: 8)."""
        if self.kind == "int":
            return self.mantissa_bits - 1
        return frexp(self.max_value)[1] - 1


def _float(
    name: str,
    bits: int,
    exponent_bits: int,
    mantissa_bits: int,
    max_value: float,
    rate: str,
    overflow: Literal["inf", "saturate"] = "saturate",
) -> Format:
    bias = 2 ** (exponent_bits - 1) - 1
    return Format(
        name, "float", bits, exponent_bits, mantissa_bits, bias, max_value, overflow, rate
    )


def _integer(bits: int) -> Format:
    rate = "int8" if bits > 4 else "int4"
    top = float(2 ** (bits - 1) - 1)
    return Format(f"int{bits}", "int", bits, 0, bits - 1, 0, top, "saturate", rate)


FORMATS = MappingProxyType(
    {
        fmt.name: fmt
        for fmt in (
            _float("fp32", 32, 8, 23, (2 - 2.0**-23) * 2.0**127, "fp32", "inf"),
            _float("tf32", 32, 8, 10, (2 - 2.0**-10) * 2.0**127, "tf32", "inf"),
            _float("bf16", 16, 8, 7, (2 - 2.0**-7) * 2.0**127, "bf16", "inf"),
            _float("fp16", 16, 5, 10, 65504.0, "fp16", "inf"),
            _float("e4m3", 8, 4, 3, 448.0, "fp8"),
            _float("e5m2", 8, 5, 2, 57344.0, "fp8"),
            _float("e3m2", 6, 3, 2, 28.0, "fp6"),
            _float("e2m3", 6, 2, 3, 7.5, "fp6"),
            _float("e2m1", 4, 2, 1, 6.0, "fp4"),
            Format("e8m0", "exponent", 8, 8, 0, 127, 2.0**127, "saturate", "fp8"),
            *(_integer(bits) for bits in range(2, 9)),
        )
    }
)


def with_bias(format: Format, bias: int) -> Format:
    """Return a float format with another exponent bias: every value times ``2**(format.bias - bias)``.

    e2m1 with bias 2 has maximum 3, smallest normal 0.5, subnormal 0.25.

    Raises:
        SchemeError: The format is no float, or its values would leave fp32's normal range.
    """
    factor = 2.0 ** (format.bias - bias)
    if format.kind != "float" or format.exponent_bits > 5:
        raise SchemeError(
            f"a chosen bias needs a float format of at most 5 exponent bits, got {format.name!r}"
        )
    if not (format.min_subnormal * factor >= 2.0**-100 and format.max_value * factor <= 2.0**100):
        raise SchemeError(
            f"values of {format.name} must stay within 2**-100..2**100, got bias={bias}"
        )
    return replace(format, bias=bias, max_value=format.max_value * factor)


def find_format(name: str) -> Format:
    """Return the element format called ``name``.

    Raises:
        UnknownNameError: No format has this name; the message lists those there are.
    """
    try:
        return FORMATS[name]
    except KeyError:
        choices = ", ".join(FORMATS)
        raise UnknownNameError(f"format must be one of {choices}; got {name!r}") from None
