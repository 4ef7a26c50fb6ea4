"""Latency of one kernel: a smooth roofline of arithmetic and memory traffic."""

from math import inf

import numpy as np
from numpy.typing import ArrayLike

from mpsearch.cost.arrays import work
from mpsearch.cost.device import Device, read_device, refusal
from mpsearch.cost.measured import Latencies, measured_latencies
from mpsearch.cost.products import (
    Products,
    element_bytes,
    padded_reduction,
    right_bytes,
)
from mpsearch.errors import DeviceError
from mpsearch.schemes import Scheme, Spec, find_scheme
from mpsearch.stats.estimates import Estimate, Floats, Ints


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

    Where the device file has fitted kernels: their curve, and what it left at kernels nearby
    (:mod:`mpsearch.cost.measured`). An NPU takes what its arrays take (:mod:`mpsearch.cost.arrays`). Else
    tau = c + (tc^p + tm^p)^(1/p); tc = 2 M N K (1 + m0/M)(1 + n0/N)(1 + k0/K) / (P s e) with the scheme's peak P,
    the gain s of sparsity and the efficiency e; tm = bytes moved / bandwidth. Blocks compute on K padded to
    the block. Quantising the activations is not included.

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
    found = latencies(device, scheme, dense_products(*sizes), out=find_scheme(base).activation)
    if sizes[0].ndim == 0:
        return Estimate(float(found.mean[0]), float(found.stderr[0]))
    shape = sizes[0].shape
    return Estimate(found.mean.reshape(shape), found.stderr.reshape(shape))  # type: ignore[arg-type]  # documented


def latencies(device: Device, scheme: Scheme, products: Products, *, out: Spec) -> Latencies:
    """Return the latency [N] of matrix products of a network, by what is known of the device.

    By its fitted kernels where the device file has them for the scheme; else by its roofline, whose
    error is the device's ``relative_error``. Quantising activations is not included.

    Args:
        device: The device; it must be able to run ``scheme``.
        scheme: What the products run in.
        products: Their sizes at the batch that is priced.
        out: Spec that results are written in (the base format).
    """
    if device.npu is not None:
        mean = work(device, scheme, products, out=out).latency_us
    else:
        measured = measured_latencies(device, scheme, products, out=out)
        if measured is not None:
            return measured
        mean = _roofline_us(device, scheme, products, out)
    nothing = np.zeros(len(mean), np.bool_)
    return Latencies(mean, mean * device.relative_error, nothing)


def dense_products(m: Ints, n: Ints, k: Ints) -> Products:
    """Return products of ``m`` × ``k`` activations by ``k`` × ``n`` weights, [N] from any shape."""
    rows, columns, reduction = (size.ravel() for size in (m, n, k))
    ones = np.ones_like(rows)
    return Products(
        m=rows,
        n=columns,
        k=reduction,
        positions=ones,
        groups=ones,
        calls=ones,
        has_weight=ones.astype(np.bool_),
        input_elements=rows * reduction,
        output_elements=rows * columns,
    )


def _roofline_us(device: Device, scheme: Scheme, products: Products, out: Spec) -> Floats:
    tc, moved = compute_us(device, scheme, products), moved_bytes(device, scheme, products, out)
    tm = moved.sum(axis=1) / (device.bandwidth_gb_s * 1e3 * device.memory_efficiency)
    return device.launch_us + _smooth_max(tc, tm, device.roofline_power or inf)


def moved_bytes(device: Device, scheme: Scheme, products: Products, out: Spec) -> Floats:
    """Return the bytes [N, 3] that products read of either operand and write, where they leave the chip."""
    left = products.input_elements * element_bytes(scheme.activation)
    written = products.output_elements * element_bytes(out)
    leaves = left + written > device.on_chip_mb * 2**20
    return np.stack([left * leaves, right_bytes(scheme, products), written * leaves], axis=1)


def compute_us(device: Device, scheme: Scheme, products: Products) -> Floats:
    """Return the time [N] of the arithmetic by the roofline: FLOPs on padded sizes over the peak."""
    rate, efficiency = device.peak_tflops[scheme.rate], device.efficiency.get(scheme.rate, 1.0)
    if scheme.sparsity is not None:
        rate *= device.sparse_gain
        efficiency = device.efficiency.get(f"{scheme.rate}_sparse", efficiency)
    rate *= efficiency
    reduction = padded_reduction(scheme, products).astype(np.float64)
    filling = (1 + device.half_m / products.m) * (1 + device.half_n / products.n)
    filling *= 1 + device.half_k / reduction
    flops: Floats = 2e-6 * products.m * products.n * reduction * products.calls * filling
    return flops / rate


def _smooth_max(a: Floats, b: Floats, power: float) -> Floats:
    high, low = np.maximum(a, b), np.minimum(a, b)
    if power == inf:
        return high
    result: Floats = high * (1 + (low / high) ** power) ** (1 / power)
    return result
