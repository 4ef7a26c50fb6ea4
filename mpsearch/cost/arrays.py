"""Kernels on an NPU's arrays: cycles with the remainders of tiles, bytes by level of memory, energy.

An array holds rows × columns weights, reduction by output channels, while the rows of the activations
stream through; the r multiply-accumulates of a unit lie along the rows, the columns or the reduction,
whichever wastes least. The next weights load meanwhile, an array row a cycle: a piece of fewer activation
rows than the array is deep waits for them. Pieces are shared evenly by all arrays.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.npu_device import Arrays, Npu
from mpsearch.cost.products import Products, element_bytes, padded_reduction, right_bytes
from mpsearch.errors import DeviceError
from mpsearch.schemes import Scheme, Spec, parse_sparsity
from mpsearch.stats.estimates import Floats, Ints

_ACCUMULATOR_BYTES = 4
"""Partial sums of a tile's reduction are fp32."""


@dataclass(frozen=True, slots=True)
class Work:
    """What N products take in one scheme; arrays [N].

    Attributes:
        compute_us: Time of the arrays.
        memory_us: Time of the slowest memory that has a bandwidth.
        latency_us: The longer of the two, and the launch.
        busy: Share of the multipliers' cycles that do useful multiply-accumulates.
        traffic: Level (``tile``, …, ``dram``) to (read left, read right, written) bytes, [N, 3].
        slowest: Name of the memory that takes ``memory_us``.
        energy_uj: Dynamic and static energy.
    """

    compute_us: Floats
    memory_us: Floats
    latency_us: Floats
    busy: Floats
    traffic: Mapping[str, Floats]
    slowest: tuple[str, ...]
    energy_uj: Floats


def work(device: Device, scheme: Scheme, products: Products, *, out: Spec) -> Work:
    """Return what ``products`` take on ``device``.

    Args:
        device: An NPU that can run ``scheme``.
        scheme: What they run in.
        products: Their sizes.
        out: Spec that results are written in (the base format).

    Raises:
        DeviceError: The device has no [npu] table, or no rate for the scheme.
    """
    npu = device.npu
    if npu is None:
        raise DeviceError(f"{device.name}: model npu needs an [npu] table")
    useful = products.macs * _density(scheme)
    compute = _compute_us(device, npu, scheme, products)
    peak = device.peak_tflops[scheme.rate] / 2e-6  # multiply-accumulates a microsecond
    traffic = dict(_traffic(device, npu, scheme, products, out))
    times = {"dram": traffic["dram"].sum(axis=1) / (device.bandwidth_gb_s * 1e3)}
    for memory in npu.memories:
        if memory.bandwidth_gb_s is not None:
            times[memory.name] = traffic[memory.name].sum(axis=1) / (memory.bandwidth_gb_s * 1e3)
    names, stacked = tuple(times), np.stack(list(times.values()))
    memory_us = stacked.max(axis=0)
    latency = device.launch_us + np.maximum(compute, memory_us)
    return Work(
        compute_us=compute,
        memory_us=memory_us,
        latency_us=latency,
        busy=useful / (compute * peak),
        traffic=traffic,
        slowest=tuple(names[i] for i in stacked.argmax(axis=0).tolist()),
        energy_uj=_energy_uj(npu, scheme, products, traffic) + (npu.static_w or 0.0) * latency,
    )


def _compute_us(device: Device, npu: Npu, scheme: Scheme, products: Products) -> Floats:
    reduction = _reduction(npu, scheme, products) * _density(scheme)
    utilisation = npu.sparse_utilisation if scheme.sparsity is not None else 1.0
    if npu.arrays is None:
        macs = products.m * products.n * reduction * products.calls
        return macs * 2e-6 / (device.peak_tflops[scheme.rate] * utilisation)
    cycles = _cycles(npu.arrays, scheme, products, reduction) / utilisation
    return np.ceil(np.round(cycles, 6)) / (npu.clock_ghz * 1e3)


def _cycles(arrays: Arrays, scheme: Scheme, products: Products, reduction: Floats) -> Floats:
    """Cycles [N] of dense work, all arrays sharing it."""
    if scheme.rate not in arrays.macs_per_unit:
        raise DeviceError(f"`npu.arrays.macs_per_unit` must hold {scheme.rate} for {scheme.name}")
    lanes = arrays.macs_per_unit[scheme.rate]
    columns, independent = _columns(products)
    best = np.full(len(products.m), inf)
    for along_m, along_n, along_k in ((lanes, 1, 1), (1, lanes, 1), (1, 1, lanes)):
        tiles = np.ceil(reduction / (arrays.rows * along_k))
        tiles *= np.ceil(columns / (arrays.columns * along_n)) * independent
        rows = np.maximum(np.ceil(products.m / along_m), arrays.rows)
        best = np.minimum(best, tiles * rows)
    return np.maximum(best / arrays.count, arrays.rows)


def _columns(products: Products) -> tuple[Floats, Ints]:
    """Output channels of a product that share its inputs' tiles, and independent products.

    A depthwise layer's channels lie side by side; other convolution groups run one after another.
    """
    apart = np.where(products.channels == 1, 1, products.groups)
    return products.n / apart, products.calls * apart


def _reduction(npu: Npu, scheme: Scheme, products: Products) -> Floats:
    """K [N] as the arrays run it: blocks padded, unless a depthwise layer's run over its channels."""
    padded = padded_reduction(scheme, products)
    if npu.mapping == "channels":
        padded = np.where((products.channels == 1) & (products.groups > 1), products.k, padded)
    return padded.astype(np.float64)


def _density(scheme: Scheme) -> float:
    if scheme.sparsity is None:
        return 1.0
    pattern = parse_sparsity(scheme.sparsity)
    return pattern.kept / pattern.group


def _traffic(
    device: Device, npu: Npu, scheme: Scheme, products: Products, out: Spec
) -> Iterator[tuple[str, Floats]]:
    """Yield level and (read left, read right, written) bytes [N, 3], from the arrays outwards.

    Each level but the arrays' own passes a tensor once; clusters that share a product's rows each take its
    weights. Activations that fit on the chip do not leave it.
    """
    left = products.input_elements * element_bytes(scheme.activation)
    right = right_bytes(scheme, products, pattern_bits=npu.pattern_bits)
    written = products.output_elements * element_bytes(out)
    pieces = np.ceil(products.m / (npu.arrays.rows if npu.arrays else 1))
    for i, memory in enumerate(npu.memories):
        if i == 0 and npu.arrays is not None:
            yield memory.name, _array_traffic(npu, npu.arrays, scheme, products, out)
        else:
            shared = right * np.minimum(memory.count, pieces)
            yield memory.name, np.stack([left, shared, written], axis=1)
    moves = left + written > device.on_chip_mb * 2**20
    yield "dram", np.stack([left * moves, right, written * moves], axis=1)


def _array_traffic(
    npu: Npu, arrays: Arrays, scheme: Scheme, products: Products, out: Spec
) -> Floats:
    """Bytes [N, 3] that the arrays take from and give to their own memories.

    Activations are read again for every column of tiles, weights for every piece of rows, partial sums
    for every further tile along the reduction.
    """
    reduction = _reduction(npu, scheme, products)
    columns, independent = _columns(products)
    across = np.ceil(columns / arrays.columns)
    depth = np.ceil(reduction * _density(scheme) / arrays.rows)
    read = np.where(products.channels == 1, products.n, products.groups * across)
    read = read * products.m * reduction * products.calls * element_bytes(scheme.activation)
    pieces = np.minimum(
        np.ceil(products.m / arrays.rows), np.ceil(arrays.count / (depth * across * independent))
    )
    weights = right_bytes(scheme, products, pattern_bits=npu.pattern_bits) * pieces
    results = products.m * products.n * products.calls
    written = results * (element_bytes(out) + 2 * (depth - 1) * _ACCUMULATOR_BYTES)
    return np.stack([read, weights, written], axis=1)


def _energy_uj(
    npu: Npu, scheme: Scheme, products: Products, traffic: Mapping[str, Floats]
) -> Floats:
    """Dynamic energy [N]: executed operations, and bytes where their energy is known."""
    per_op = npu.picojoule_per_op.get(scheme.rate, 0.0)
    if scheme.sparsity is not None:
        per_op *= npu.sparse_energy
    macs = products.m * products.n * _reduction(npu, scheme, products) * products.calls
    energy = 2 * macs * per_op
    energy += traffic["dram"].sum(axis=1) * (npu.dram_picojoule_per_byte or 0.0)
    for memory in npu.memories:
        energy += traffic[memory.name].sum(axis=1) * (memory.picojoule_per_byte or 0.0)
    result: Floats = energy / 1e6
    return result
