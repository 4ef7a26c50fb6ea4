"""What other devices and formats say of kernels that were measured little, or not at all."""

from collections.abc import Mapping, Sequence

import numpy as np

from mpsearch.cost.curve import curve_us
from mpsearch.cost.device import Device
from mpsearch.cost.fit.curves import WIDTH, Prior, default_prior, machine_for, shapes_of
from mpsearch.cost.fit.measurements import Measured
from mpsearch.cost.fitted import FittedKernels
from mpsearch.cost.measured import theta_of
from mpsearch.stats.estimates import Floats

Key = tuple[str, str]
_ALIKE: Mapping[str, tuple[str, ...]] = {
    "bf16": ("fp16", "fp8", "int8"),
    "fp16": ("bf16", "fp8", "int8"),
    "fp8": ("mxfp8", "int8", "bf16", "fp16"),
    "mxfp8": ("fp8", "int8", "bf16", "fp16"),
    "int8": ("fp8", "bf16", "fp16"),
    "mxfp6": ("fp8", "int8", "bf16", "fp16"),
    "nvfp4": ("mxfp4", "fp8", "int8", "bf16", "fp16"),
    "mxfp4": ("nvfp4", "fp8", "int8", "bf16", "fp16"),
    "int4": ("int8", "fp8", "bf16", "fp16"),
    "tf32": ("bf16", "fp16"),
    "fp32": ("tf32", "bf16", "fp16"),
}
"""Format to those whose kernels are likest, first the nearest."""
_OFFSET_KEPT = 0.7
"""Share of a device's offset from the others in measured formats that is believed of further ones."""
MANY = 20
"""Kernels from which a group speaks for others."""
_LEAST_WIDTH = 0.15
_GAP, _LARGE = 0.5, 8192.0
_LIKE_LENGTH = 0.5
"""Of ln of arithmetic a watt: devices farther apart say little of each other."""


def well_measured(kernels: Sequence[FittedKernels]) -> dict[Key, FittedKernels]:
    """Return (format, sparsity) to the kernels that were measured often enough to lend."""
    return {(k.format, k.sparsity): k for k in kernels if k.points >= MANY}


def borrowed_prior(
    device: Device, key: Key, references: Sequence[Device], own: Mapping[Key, Floats]
) -> tuple[Prior, str]:
    """Return what is believed of ``key`` on a device, and from where.

    The mean over the other devices that have it, or else its likest format, those like this one first, shifted
    by how far it lies from them in the formats that it was measured in.

    Args:
        device: Of which something is to be said.
        key: Format and sparsity.
        references: Devices with fitted kernels.
        own: The device's own well-measured groups, to their parameters.
    """
    known = [_lent(other) for other in references]
    found = find_alike(key, {k for thetas in known for k in thetas} | set(own))
    if found is None:
        return default_prior(key[1]), ""
    if not any(found in thetas for thetas in known):
        return Prior(own[found], WIDTH), f"own {found[0]} {found[1]}"
    weights = likeness(device, references)
    mean, spread = _mean(found, known, weights)
    width = np.maximum(spread if len(references) > 1 else WIDTH, _LEAST_WIDTH)
    offsets = [
        theta - _mean(k, known, weights)[0]
        for k, theta in own.items()
        if any(k in thetas for thetas in known)
    ]
    if offsets:
        mean = mean + _OFFSET_KEPT * np.mean(offsets, axis=0)
    names = ", ".join(
        other.name for other, thetas in zip(references, known, strict=True) if found in thetas
    )
    return Prior(mean, width), f"{found[0]} {found[1]} of {names}"


def likeness(device: Device, references: Sequence[Device]) -> Floats:
    """Return how much each of ``references`` [R] says of ``device``: 1 of its like, less of others.

    Devices are alike that promise as much arithmetic a watt: how far a kernel falls short of the peak is
    mostly a matter of power. Where a datasheet does not say, all count alike.
    """
    own = _promise(device)
    distances = [
        0.0 if own is None or theirs is None else abs(np.log(theirs / own))
        for theirs in map(_promise, references)
    ]
    result: Floats = np.exp(-np.array(distances) / _LIKE_LENGTH)
    return result


def _lent(device: Device) -> dict[Key, Floats]:
    """Parameters of a device's well-measured groups, without those that its library has no good kernels for.

    These reach less than half of the share of the peak that the device's other groups reach in the median.
    """
    thetas = {key: theta_of(kernels) for key, kernels in well_measured(device.kernels).items()}
    reached = {key: _share_of_peak(device, key, theta) for key, theta in thetas.items()}
    middle = float(np.median(list(reached.values()))) if reached else 0.0
    return {key: theta for key, theta in thetas.items() if reached[key] >= _GAP * middle}


def _share_of_peak(device: Device, key: Key, theta: Floats) -> float:
    """Share of the peak that a large product reaches."""
    size = np.array([[_LARGE, _LARGE, _LARGE]], np.float64)
    shapes = shapes_of(Measured(*key, size, np.ones(1)))
    machine = machine_for(device, *key)
    return float(2 * _LARGE**3 / curve_us(theta, machine, shapes)[0] / machine.flops_per_us)


def _promise(device: Device) -> float | None:
    """TFLOPS of dense 16-bit products a watt."""
    peak = device.peak_tflops.get("bf16", device.peak_tflops.get("fp16"))
    return None if peak is None or device.max_power_w is None else peak / device.max_power_w


def _mean(
    key: Key, known: Sequence[Mapping[Key, Floats]], weights: Floats
) -> tuple[Floats, Floats]:
    """Weighted mean of a group's parameters over the devices that have it, and their standard deviation."""
    there = np.array([thetas[key] for thetas in known if key in thetas])
    share = np.array([w for w, thetas in zip(weights, known, strict=True) if key in thetas])
    mean = np.average(there, axis=0, weights=share)
    return mean, np.sqrt(np.average((there - mean) ** 2, axis=0, weights=share))


def find_alike(key: Key, known: set[Key]) -> Key | None:
    """Return ``key``, or the likest of ``known``: another format at this sparsity, then a dense one."""
    kind, sparsity = key
    patterns = (sparsity,) if sparsity == "dense" else (sparsity, "2:4", "4:8_paired", "dense")
    for pattern in patterns:
        for other in (kind, *_ALIKE.get(kind, ())):
            if (other, pattern) in known:
                return other, pattern
    return None
