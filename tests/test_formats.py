"""Formats are what the standards say."""

import ml_dtypes
import numpy as np
import pytest

from mpsearch.errors import UnknownNameError
from mpsearch.formats import FORMATS, find_format

DTYPES = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", DTYPES)
def test_floats_have_the_limits_of_ml_dtypes(name: str) -> None:
    fmt, limits = FORMATS[name], ml_dtypes.finfo(DTYPES[name])
    assert fmt.max_value == float(limits.max)
    assert fmt.min_normal == float(limits.smallest_normal)
    assert fmt.min_subnormal == float(limits.smallest_subnormal)
    assert (fmt.bits, fmt.exponent_bits, fmt.mantissa_bits) == (
        limits.bits,
        limits.nexp,
        limits.nmant,
    )
    assert 2.0**fmt.max_exponent <= fmt.max_value < 2.0 ** (fmt.max_exponent + 1)


@pytest.mark.parametrize(
    ("name", "emax"), [("e2m1", 2), ("e2m3", 2), ("e3m2", 4), ("e4m3", 8), ("e5m2", 15)]
)
def test_emax_is_that_of_ocp_mx(name: str, emax: int) -> None:
    assert FORMATS[name].max_exponent == emax


def test_integers_are_symmetric() -> None:
    assert {name: FORMATS[name].max_value for name in ("int2", "int4", "int8")} == {
        "int2": 1,
        "int4": 7,
        "int8": 127,
    }
    assert FORMATS["int8"].min_subnormal == 1


def test_tf32_is_stored_as_fp32_with_10_bits() -> None:
    fmt = FORMATS["tf32"]
    assert (fmt.bits, fmt.mantissa_bits, fmt.min_normal) == (32, 10, 2.0**-126)


def test_an_unknown_format_lists_the_choices() -> None:
    with pytest.raises(UnknownNameError, match=r"one of fp32, tf32, bf16.*; got 'fp9'"):
        find_format("fp9")
