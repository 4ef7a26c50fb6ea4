"""Signal to quantisation noise of N(0, 1) in each format: measured, and by integration of the density.

Run: python -m experiments.formats [--size 2048] [--seed 0]

The second column is independent of the quantiser: the noise of each cell of the format's grid is integrated over the
normal density in closed form; block formats average that over the density of a block's largest magnitude.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from mpsearch.formats import find_format
from mpsearch.numerics.packing import decode
from mpsearch.numerics.quantize import fake_quantize, find_spec
from mpsearch.schemes import SCHEMES, Spec, stored_bits

Floats = NDArray[np.float64]

ROWS: list[tuple[str, str | Spec]] = [
    ("fp4 (best power of two)", "fp4"),
    (
        "fp4, subnormals flushed",
        Spec("e2m1", scale_format="e8m0", estimator="mse", subnormals=False),
    ),
    ("mxfp4", "mxfp4"),
    ("int4, groups of 128", "int4_g128"),
    ("int4, groups of 32", "int4_g32"),
    ("nvfp4", "nvfp4"),
    ("nvfp4, four over six", SCHEMES["nvfp4_four_over_six"].weight),
    ("nvfp4, MSE sweep", SCHEMES["nvfp4_mse"].weight),
    ("mxfp6 (e3m2)", "mxfp6_e3m2"),
    ("mxfp6 (e2m3)", "mxfp6"),
    ("mxfp8 (e5m2)", "mxfp8_e5m2"),
    ("mxfp8 (e4m3)", "mxfp8"),
    ("e4m3 per channel", Spec("e4m3", "channel")),
    ("e4m3 per tensor", "e4m3"),
    ("int8 per tensor", "int8"),
    ("int8 per channel", Spec("int8", "channel")),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
]


def density(x: Floats) -> Floats:
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def magnitudes(name: str) -> Floats:
    """Return the non-negative elements of a format of at most 8 bits, in order."""
    fmt = find_format(name)
    values = np.unique(np.abs(decode(torch.arange(2**fmt.bits, dtype=torch.uint8), fmt).numpy()))
    return values[np.isfinite(values) & (values <= fmt.max_value)].astype(np.float64)


def noise_within(bound: Floats, steps: Floats, grid: Floats, floor: float = 0.0) -> Floats:
    """Return the integral of ``(x - Q(x))²`` over the normal density of |x| < bound, for each (bound, step).

    Elements below ``floor`` are flushed to zero after rounding.
    """
    levels = grid * steps[:, None]
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    left = np.concatenate([np.zeros_like(steps)[:, None], middles], axis=1)
    right = np.concatenate([middles, np.full_like(steps, np.inf)[:, None]], axis=1)
    left, right = (np.minimum(edge, bound[:, None]) for edge in (left, right))
    mass = ndtr(right) - ndtr(left)
    levels = np.where(grid < floor, 0.0, levels)
    first = density(left) - density(right)
    second = mass - (np.where(np.isinf(right), 0, right) * density(right) - left * density(left))
    return 2 * (second - 2 * levels * first + levels**2 * mass).sum(axis=1)


def block_noise(grid: Floats, size: int, step_of: Callable[[Floats], Floats]) -> float:
    """Return the mean squared error in blocks of ``size`` whose step follows from their amax."""
    amax = np.linspace(1e-4, 7, 20001)
    steps = step_of(amax)
    inside = 2 * ndtr(amax) - 1
    of_largest = np.square(
        amax - grid[np.abs(grid * steps[:, None] - amax[:, None]).argmin(1)] * steps
    )
    of_others = noise_within(amax, steps, grid) / inside
    weight = size * 2 * density(amax) * inside ** (size - 1)
    mean = (of_largest + (size - 1) * of_others) / size
    return float(np.trapezoid(weight * mean, amax))


def predicted_noise(spec: Spec, amax: float, columns: int) -> float | None:
    """Return the expected noise power of N(0, 1), or None where no closed form is worked out."""
    if spec.is_cast or spec.block_scale != "amax":
        return None
    grid = magnitudes(spec.format)
    floor = 0.0 if spec.subnormals else spec.element.min_normal
    top, emax = spec.element.max_value, spec.element.max_exponent
    anything = np.array([np.inf])
    if spec.estimator == "mse":
        powers = np.ldexp(1.0, np.arange(-6, 3))
        return float(noise_within(np.full_like(powers, np.inf), powers, grid, floor).min())
    if spec.granularity == "tensor":
        return float(noise_within(anything, np.array([amax / top]), grid)[0])
    size = spec.block_shape[1] if spec.block_shape else columns
    if spec.scale_format == "e8m0":
        return block_noise(grid, size, lambda a: 2.0 ** (np.floor(np.log2(a)) - emax))
    if spec.tensor_scale:
        g, scales = amax / (6 * 448), magnitudes("e4m3")
        middles = (scales[1:] + scales[:-1]) / 2
        return block_noise(grid, size, lambda a: g * scales[np.searchsorted(middles, a / (6 * g))])
    return block_noise(grid, size, lambda a: a / top)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    size = options.size
    x = torch.randn(size, size, generator=torch.Generator().manual_seed(options.seed))
    power = float(x.double().square().mean())
    print("| format | bits per element | SQNR, dB | by integration, dB |")
    print("|---|---|---|---|")
    for name, format in ROWS:
        spec = find_spec(format)
        noise = float((fake_quantize(x, spec).double() - x).square().mean())
        expected = predicted_noise(spec, float(x.abs().max()), size)
        bits = stored_bits(spec, size, 1, size) / size**2
        measured = f"{10 * np.log10(power / noise):.2f}"
        integral = "" if expected is None else f"{-10 * np.log10(expected):.2f}"
        print(f"| {name} | {bits:.4g} | {measured} | {integral} |")


if __name__ == "__main__":
    main()
