"""Slow, independent definitions of the formats, written from the standards."""

import itertools
from fractions import Fraction

import ml_dtypes
import numpy as np

DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
MAXIMA = {"e4m3": 448.0, "e5m2": 57344.0, "e3m2": 28.0, "e2m3": 7.5, "e2m1": 6.0}
EMAX = {"e2m1": 2, "e2m3": 2, "e3m2": 4, "e4m3": 8, "e5m2": 15}

f32 = np.float32


def cast(x: np.ndarray, name: str) -> np.ndarray:
    """Round fp32 ``x`` through ml_dtypes, clamped to ± max where the format saturates."""
    with np.errstate(over="ignore", invalid="ignore"):
        if name in MAXIMA:
            x = np.clip(x, -MAXIMA[name], MAXIMA[name])
        return x.astype(DTYPES[name]).astype(np.float32)


def magnitudes(exponent_bits: int, mantissa_bits: int, bias: int, top: float) -> list[float]:
    """Enumerate the non-negative values of a float format in the order of their codes."""
    values = []
    for e, m in itertools.product(range(2**exponent_bits), range(2**mantissa_bits)):
        fraction = m / 2**mantissa_bits
        values.append(
            2.0 ** (1 - bias) * fraction if e == 0 else 2.0 ** (e - bias) * (1 + fraction)
        )
    return [value for value in values if value <= top]


TABLES = {
    "e2m1": magnitudes(2, 1, 1, 6.0),
    "e2m3": magnitudes(2, 3, 1, 7.5),
    "e3m2": magnitudes(3, 2, 3, 28.0),
    "e4m3": magnitudes(4, 3, 7, 448.0),
    "e5m2": magnitudes(5, 2, 15, 57344.0),
    "int4": [float(i) for i in range(8)],
    "int8": [float(i) for i in range(128)],
}


def nearest(value: float, table: list[float]) -> float:
    """Return the table's value nearest to ``value`` in exact arithmetic; a tie goes to the even code."""
    size = abs(Fraction(value))
    best = min(range(len(table)), key=lambda code: (abs(Fraction(table[code]) - size), code % 2))
    return float(np.copysign(table[best], value))


def floor_log2(value: float) -> int:
    """Return floor(log2(value)) of a positive float exactly."""
    return int(np.frexp(np.float64(value))[1]) - 1


def scaled(block: np.ndarray, step: np.float32, name: str) -> np.ndarray:
    """Return the block quantised at one step; a step of 0 gives zeros."""
    if step == 0:
        return np.zeros_like(block)
    with np.errstate(over="ignore"):
        codes = [nearest(float(min(f32(v) / step, f32(3e38))), TABLES[name]) for v in block]
        return np.array([f32(code) * step for code in codes], dtype=np.float32)


def nvfp4_block(block: np.ndarray, g: np.float32) -> np.ndarray:
    amax = f32(np.abs(block).max())
    if amax == 0 or g == 0:
        return np.zeros_like(block)
    scale = f32(nearest(float(min(amax / f32(f32(6) * g), f32(448))), TABLES["e4m3"]))
    return scaled(block, f32(scale * g), "e2m1")


def mx_block(block: np.ndarray, name: str) -> np.ndarray:
    amax = float(np.abs(block).max())
    if amax == 0:
        return np.zeros_like(block)
    exponent = min(max(floor_log2(amax) - EMAX[name], -127), 127)
    return scaled(block, f32(2.0**exponent), name)


def integer_group(block: np.ndarray, top: int) -> np.ndarray:
    amax = f32(np.abs(block).max())
    step = f32(np.float16(min(amax / f32(top), f32(65504))))
    return scaled(block, step, f"int{4 if top == 7 else 8}")


def blocked(x: np.ndarray, size: int, quantize_block) -> np.ndarray:
    """Apply ``quantize_block`` to each run of ``size`` along the last axis; the last may be short."""
    flat = x.reshape(-1, x.shape[-1]).astype(np.float32)
    out = np.empty_like(flat)
    for row in range(flat.shape[0]):
        for start in range(0, flat.shape[1], size):
            block = flat[row, start : start + size]
            out[row, start : start + size] = quantize_block(block)
    return out.reshape(x.shape)


def nvfp4_scale(x: np.ndarray) -> np.float32:
    return f32(f32(np.abs(x).max()) / f32(6 * 448))
