"""Where programs run, and how much memory is free there."""

import os

import torch

from mpsearch.errors import DataError

_MOST_BYTES = 2 * 2**30


def find_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA where there is one.

    Raises:
        DataError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DataError(f"device must be auto, cpu or cuda; got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"device {name!r} must exist, but torch finds no CUDA here; use cpu")
    return device


def describe_device(device: torch.device) -> str:
    """Return the GPU's model or the CPU's instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def default_memory() -> int:
    """Return a third of the memory that is free now, at most 2 GiB, in bytes."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return _MOST_BYTES
    return min(free // 3, _MOST_BYTES)
