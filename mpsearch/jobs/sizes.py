"""Sizes of memory in words: 2GB, 512MB."""

import re

from mpsearch.errors import JobError

_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def parse_bytes(text: str) -> int:
    """Return the bytes that ``text`` says.

    Raises:
        JobError: It is no number with a unit of bytes behind it.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?\s*", text.upper())
    unit = (found[2] or "").removeprefix("B") if found else ""
    if found is None or unit not in _UNITS:
        raise JobError(f"a size of memory must read like 2GB, 512MB or 1.5GiB; got {text!r}")
    return int(float(found[1]) * _UNITS[unit])
