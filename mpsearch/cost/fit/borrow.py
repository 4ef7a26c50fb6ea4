"""What other devices and formats say of kernels that were measured little, or not at all."""

from collections.abc import Mapping, Sequence

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.fit.curves import WIDTH, Prior, default_prior
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


def well_measured(kernels: Sequence[FittedKernels]) -> dict[Key, FittedKernels]:
    """Return (format, sparsity) to the kernels that were measured often enough to lend."""
    return {(k.format, k.sparsity): k for k in kernels if k.points >= MANY}


def borrowed_prior(
    key: Key, references: Sequence[Device], own: Mapping[Key, Floats]
) -> tuple[Prior, str]:
    """Return what is believed of ``key`` on a device, and from where.

    The mean over the other devices that have it, or else its likest format, shifted by how far this
    device lies from them in the formats that it was measured in.

    Args:
        key: Format and sparsity.
        references: Devices with fitted kernels.
        own: The device's own well-measured groups, to their parameters.
    """
    known = [
        {k: theta_of(v) for k, v in well_measured(device.kernels).items()} for device in references
    ]
    found = find_alike(key, {k for thetas in known for k in thetas} | set(own))
    if found is None:
        return default_prior(key[1]), ""
    there = [thetas[found] for thetas in known if found in thetas]
    if not there:
        return Prior(own[found], WIDTH), f"own {found[0]} {found[1]}"
    mean = np.mean(there, axis=0)
    width = np.maximum(np.std(there, axis=0) if len(there) > 1 else WIDTH, _LEAST_WIDTH)
    offsets = [
        theta - np.mean([thetas[k] for thetas in known if k in thetas], axis=0)
        for k, theta in own.items()
        if any(k in thetas for thetas in known)
    ]
    if offsets:
        mean = mean + _OFFSET_KEPT * np.mean(offsets, axis=0)
    names = ", ".join(
        device.name for device, thetas in zip(references, known, strict=True) if found in thetas
    )
    return Prior(mean, width), f"{found[0]} {found[1]} of {names}"


def find_alike(key: Key, known: set[Key]) -> Key | None:
    """Return ``key``, or the likest of ``known``: another format at this sparsity, then a dense one."""
    kind, sparsity = key
    patterns = (sparsity,) if sparsity == "dense" else (sparsity, "2:4", "4:8_paired", "dense")
    for pattern in patterns:
        for other in (kind, *_ALIKE.get(kind, ())):
            if (other, pattern) in known:
                return other, pattern
    return None
