"""Where programs run, how much memory is free there, and what is done with freed blocks."""

import ctypes
import os
from pathlib import Path
from typing import Any

import torch

from mpsearch.errors import DataError

_MOST_BYTES = 2 * 2**30
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h


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


def anonymous_memory() -> int:
    """Return the bytes of memory that this process holds for itself, maps of files left out.

    0 where the system does not say: it is Linux's RssAnon.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def keep_freed_blocks(limit: int) -> None:
    """Let malloc keep freed blocks of up to ``limit`` bytes for the next activation of their size.

    glibc gives every large block back to the kernel, which clears each of its pages when the next one is
    asked for: on large activations that costs more than the arithmetic. It holds for the process; where
    malloc is another one nothing is done.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, limit)
        mallopt(_TRIM_THRESHOLD, limit)


def release_freed_blocks() -> None:
    """Give freed blocks back to the kernel, so that :func:`anonymous_memory` counts what is in use."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
