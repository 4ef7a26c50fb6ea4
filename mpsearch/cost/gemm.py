"""Latency of one kernel: a smooth roofline of arithmetic and memory traffic."""

from functools import lru_cache
from math import ceil, inf

import numpy as np
from numpy.typing import ArrayLike

from mpsearch.cost.arrays import dense_us
from mpsearch.cost.device import Device, read_device, refusal
from mpsearch.cost.products import element_bytes
from mpsearch.errors import DeviceError
from mpsearch.graph.model import Gemm, Operand
from mpsearch.schemes import Scheme, Spec, find_scheme, parse_sparsity, stored_bits
from mpsearch.stats.estimates import Estimate


def gemm_latency(
    device: Device | str,
    scheme: Scheme | str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    base: str = "fp16",
) -> Estimate:
    """Return the latency of M × K activations by K × N weights, in microseconds.

    tau = c + (tc^p + tm^p)^(1/p); tc = 2 M N K (1 + m0/M)(1 + n0/N)(1 + k0/K) / (P s e) with the
    scheme's peak P, the gain s of sparsity and the efficiency e; tm = bytes moved / bandwidth. Blocks
    compute on K padded to the block. An NPU takes what its arrays take (:mod:`mpsearch.cost.arrays`).
    Quantising the activations is not included.

    Args:
        device: A device or its name.
        scheme: A scheme or its name.
        m: Rows; scalar or array.
        n: Columns, broadcast against ``m``.
        k: Reduction, broadcast against ``m``.
        base: Format that the result is written in.

    Returns:
        Mean and standard error; arrays of the broadcast shape where sizes are arrays.

    Raises:
        DeviceError: The device cannot run the scheme, or a size is not positive.
    """
    device = read_device(device) if isinstance(device, str) else device
    scheme = find_scheme(scheme) if isinstance(scheme, str) else scheme
    reason = refusal(device, scheme)
    if reason:
        raise DeviceError(f"{scheme.name}: {reason}")
    sizes = np.broadcast_arrays(*(np.asarray(size, np.int64) for size in (m, n, k)))
    if min(int(size.min(initial=1)) for size in sizes) < 1:
        raise DeviceError("`m, n, k >= 1` must hold for a GEMM")
    out = find_scheme(base).activation
    if device.npu is not None:
        mean = dense_us(device, scheme, *sizes, out=out)
    else:
        flat = zip(*(size.ravel().tolist() for size in sizes), strict=True)
        values = [_dense_gemm_us(device, scheme, out, *size) for size in flat]
        mean = np.array(values, np.float64).reshape(sizes[0].shape)
    if mean.ndim == 0:
        return Estimate(float(mean), float(mean) * device.relative_error)
    return Estimate(mean, mean * device.relative_error)  # type: ignore[arg-type]  # documented


def kernel_us(
    device: Device,
    scheme: Scheme,
    gemm: Gemm,
    *,
    out: Spec,
    input_elements: int,
    output_elements: int,
) -> float:
    """Return the latency of one matrix product of a network, in microseconds.

    Args:
        device: The device; it must be able to run ``scheme``.
        scheme: What the product runs in.
        gemm: Its sizes at the batch that is priced.
        out: Spec that the result is written in (the base format).
        input_elements: Elements of the activation tensor (of a convolution: not of its im2col).
        output_elements: Elements of the result.
    """
    tc = _compute_us(device, scheme, gemm)
    moved = input_elements * element_bytes(scheme.activation)
    moved += output_elements * element_bytes(out)
    if moved <= device.on_chip_mb * 2**20:
        moved = 0.0
    moved += operand_bytes(scheme, gemm)
    tm = moved / (device.bandwidth_gb_s * 1e3 * device.memory_efficiency)
    return device.launch_us + _smooth_max(tc, tm, device.roofline_power or inf)


def operand_bytes(scheme: Scheme, gemm: Gemm) -> float:
    """Return the bytes of the right operand: stored weights, or the second activation."""
    if not gemm.has_weight:
        return gemm.calls * gemm.k * gemm.n * element_bytes(scheme.activation)
    return weight_bits(scheme, gemm) / 8


def weight_bits(scheme: Scheme, gemm: Gemm) -> int:
    """Return the stored bits of a product's weight, scales and metadata included."""
    channels = gemm.k // gemm.positions
    return _weight_bits(scheme, gemm.n, gemm.positions, channels)


def _executed_k(scheme: Scheme, gemm: Gemm) -> int:
    """K with the channels of each kernel position padded to the block, which never crosses one.

    A depthwise layer pads 1 channel to a whole block; weight-only schemes compute in the
    activations' format, unpadded.
    """
    channels = gemm.k // gemm.positions
    shape = scheme.activation.block_shape
    if shape is not None and scheme.activation.granularity == "block":
        channels = ceil(channels / shape[1]) * shape[1]
    return channels * gemm.positions


@lru_cache(maxsize=65536)
def _weight_bits(scheme: Scheme, n: int, positions: int, channels: int) -> int:
    sparsity = scheme.sparsity
    if sparsity is not None and channels % parse_sparsity(sparsity).group:
        group = parse_sparsity(sparsity).group
        channels = ceil(channels / group) * group  # a kernel pads; a space forbids it
    return stored_bits(scheme.weight, n, positions, channels, sparsity=sparsity)


def _dense_gemm_us(device: Device, scheme: Scheme, out: Spec, m: int, n: int, k: int) -> float:
    gemm = Gemm(m, n, k, Operand("", "", 0, -1), Operand("", "", 1, 0, (1,)))
    return kernel_us(device, scheme, gemm, out=out, input_elements=m * k, output_elements=m * n)


def _compute_us(device: Device, scheme: Scheme, gemm: Gemm) -> float:
    rate, efficiency = device.peak_tflops[scheme.rate], device.efficiency.get(scheme.rate, 1.0)
    if scheme.sparsity is not None:
        rate *= device.sparse_gain
        efficiency = device.efficiency.get(f"{scheme.rate}_sparse", efficiency)
    rate *= efficiency
    filling = (1 + device.half_m / gemm.m) * (1 + device.half_n / gemm.n)
    reduction = _executed_k(scheme, gemm)
    filling *= 1 + device.half_k / reduction
    return 2 * gemm.m * gemm.n * reduction * gemm.calls * filling / (rate * 1e6)


def _smooth_max(a: float, b: float, power: float) -> float:
    high, low = max(a, b), min(a, b)
    if power == inf or low == 0:
        return high
    return float(high * (1 + (low / high) ** power) ** (1 / power))
