"""Rounding to the elements of a format, exact on every bit pattern."""

from torch import Tensor

from mpsearch.formats import Format
from mpsearch.numerics import dispatch
from mpsearch.numerics.grids import as_float32, round_plain


def round_elements(x: Tensor, format: Format, *, subnormals: bool = True) -> Tensor:
    """Return ``x`` rounded to the nearest element of ``format``, ties to the even code.

    fp16, bf16 and tf32 overflow to ±Inf as IEEE 754 says; every narrower format and integers saturate
    at ± their maximum. NaN stays NaN. e8m0, which has neither sign nor zero, gives NaN for x <= 0 and
    rounds ties up, as ``ml_dtypes`` does.

    Args:
        x: fp32 (or fp16, bf16) of any shape.
        format: Element format; its exponent bias may be any (:func:`mpsearch.formats.with_bias`).
        subnormals: False flushes what rounds to a subnormal to zero.

    Returns:
        fp32 of the same shape; ``x`` itself for fp32.

    Raises:
        SchemeError: ``x`` is not one of these types.
    """
    x = as_float32(x)
    if dispatch.can_run(x) and dispatch.can_cast(format, subnormals=subnormals):
        return dispatch.cast(x, format, subnormals=subnormals)[0]
    return round_plain(x, format, subnormals=subnormals)
