"""Measured kernels read from a CSV file: units converted, impossible rows named and left out."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from mpsearch.cost.device import Device, refusal
from mpsearch.errors import DeviceError
from mpsearch.schemes import SCHEMES, Scheme, find_scheme
from mpsearch.stats.estimates import Bools, Floats

COLUMNS = ("gpu", "dtype", "sparsity", "m", "n", "k")
UNITS = {"latency_us": 1.0, "latency_ms": 1e3, "latency_s": 1e6, "latency_ns": 1e-3}
"""Column of the latency to microseconds in its unit."""
MOST_OF_PEAK = 1.05
_FORMATS = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32",
    "fp8e4m3": "fp8", "fp8_e4m3": "fp8", "e4m3": "fp8", "float8_e4m3fn": "fp8",
    "fp4": "nvfp4", "fp4e2m1": "nvfp4", "fp4_e2m1": "nvfp4",
}  # fmt: skip
_RATES = {"nvfp4": "fp4", "mxfp4": "fp4", "mxfp8": "fp8", "mxfp6": "fp6"}
_SUFFIX = {"dense": "", "2:4": "_2of4", "4:8_paired": "_4of8"}
"""Sparsity to how schemes of it end."""
_DENSE = ("", "dense", "none", "1:1")
_SLOW = (
    300.0  # times slower than the datasheet's roofline and a launch: not in the unit that is said
)
_LAUNCH_US = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """One measured kernel; ``line`` is its line in the file."""

    line: int
    gpu: str
    format: str
    sparsity: str
    m: int
    n: int
    k: int
    us: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Kernels of one format and sparsity on one device.

    Attributes:
        format: Operand format.
        sparsity: ``dense`` or a pattern.
        sizes: M, N and K, [P, 3].
        us: Measured latency in microseconds, [P].
    """

    format: str
    sparsity: str
    sizes: Floats
    us: Floats

    def take(self, which: Bools) -> "Measured":
        """Return the kernels that ``which`` selects."""
        return Measured(self.format, self.sparsity, self.sizes[which], self.us[which])


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a file holds of one device.

    Attributes:
        groups: (format, sparsity) to accepted kernels.
        rejected: Why rows were left out, to (their number, the first one's line).
        rows: Rows of the device in the file.
    """

    groups: Mapping[tuple[str, str], Measured]
    rejected: Mapping[str, tuple[int, int]]
    rows: int


def read_rows(path: Path) -> tuple[list[Row], dict[str, tuple[int, int]]]:
    """Return the rows that are numbers, and why others were left out.

    Raises:
        DeviceError: The file cannot be read, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DeviceError(f"{path.name}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise DeviceError(f"{path.name}: must be a CSV file in UTF-8") from None
    reader = csv.DictReader(text.splitlines())
    header = _header(reader)
    reader.fieldnames = header
    unit = _unit(path, header)
    rows, rejected = [], _Rejected()
    for record in reader:
        cells = {name: (value or "").strip() for name, value in record.items() if name in header}
        row = _row(reader.line_num, cells, unit)
        if isinstance(row, str):
            rejected.add(row, reader.line_num)
        else:
            rows.append(row)
    return rows, rejected.counts


def ignored_columns(path: Path) -> tuple[str, ...]:
    """Return the columns of a file that :func:`read_rows` has read which say nothing to a fit."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = _header(csv.DictReader(file))
    return tuple(name for name in header if name and name not in (*COLUMNS, *UNITS))


def select(
    rows: Sequence[Row], device: Device, *, names: Sequence[str], where: str
) -> Measurements:
    """Return the rows of one device, without those that its peaks make impossible.

    Args:
        rows: Of a file.
        device: What is known of the device.
        names: How the file may call it.
        where: The file's name, for messages.

    Raises:
        DeviceError: No row is of the device, none is left, or the unit cannot be what the file says.
    """
    wanted = {name.lower() for name in names}
    own = [row for row in rows if row.gpu.lower() in wanted]
    if not own:
        there = ", ".join(sorted({row.gpu for row in rows})) or "none"
        raise DeviceError(
            f"{where}: has no rows of {' or '.join(names)} in column gpu; there are: {there}"
        )
    rejected, kept = _Rejected(), []
    for row in own:
        reason = _impossible(row, device)
        if reason:
            rejected.add(reason, row.line)
        else:
            kept.append(row)
    _check_unit(own, kept, device, where)
    if not kept:
        raise DeviceError(f"{where}: no row is left to fit: {rejected}")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in kept:
        groups.setdefault((row.format, row.sparsity), []).append(row)
    return Measurements(
        {key: _measured(key, members) for key, members in sorted(groups.items())},
        rejected.counts,
        len(own),
    )


def scheme_of(kind: str, sparsity: str) -> Scheme:
    """Return the scheme whose kernels are measured as operand format ``kind`` and ``sparsity``."""
    return find_scheme(kind + _SUFFIX[sparsity])


def rate_of(kind: str) -> str:
    """Return the key of a device's peaks that operands of format ``kind`` run at."""
    return _RATES.get(kind, kind)


class _Rejected:
    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, int]] = {}

    def add(self, reason: str, line: int) -> None:
        count, first = self.counts.get(reason, (0, line))
        self.counts[reason] = (count + 1, first)

    def __str__(self) -> str:
        return "; ".join(f"{n} rows {why} (line {line})" for why, (n, line) in self.counts.items())


def _header(reader: "csv.DictReader[str]") -> list[str]:
    return [name.strip().lower() for name in reader.fieldnames or ()]


def _unit(path: Path, header: Sequence[str]) -> float:
    missing = [name for name in COLUMNS if name not in header]
    units = [name for name in UNITS if name in header]
    if missing or len(units) != 1:
        raise DeviceError(
            f"{path.name}: columns must be {', '.join(COLUMNS)} and one of {', '.join(UNITS)}; "
            f"got {', '.join(header) or 'none'}"
        )
    return UNITS[units[0]]


def _row(line: int, cells: Mapping[str, str], unit: float) -> Row | str:
    latency = next(cells.get(name, "") for name in UNITS if name in cells)
    try:
        sizes = [float(cells[name]) for name in ("m", "n", "k")]
        us = float(latency) * unit
    except (KeyError, ValueError):
        return "hold what is no number"
    if not all(map(isfinite, (*sizes, us))):
        return "hold NaN or Inf"
    if min(sizes) < 1 or any(size != int(size) for size in sizes):
        return "have sizes that are no positive whole numbers"
    if us <= 0:
        return "have a latency that is not positive"
    kind = cells["dtype"].lower()
    kind = _FORMATS.get(kind, kind)
    sparsity = "dense" if cells["sparsity"].lower() in _DENSE else cells["sparsity"]
    if kind == "nvfp4" and sparsity == "2:4":
        sparsity = "4:8_paired"  # the pattern that 4-bit kernels take
    m, n, k = (int(size) for size in sizes)
    return Row(line, cells["gpu"], kind, sparsity, m, n, k, us)


def _impossible(row: Row, device: Device) -> str:
    peak = _peak(row, device)
    if peak is None:
        return f"are of {row.format}, of which {device.name} states no peak"
    if row.sparsity not in _SUFFIX:
        return f"are of sparsity {row.sparsity}, which must be {', '.join(_SUFFIX)}"
    if row.format + _SUFFIX[row.sparsity] not in SCHEMES:
        return f"are of {row.format}, of which there is no scheme"
    reason = refusal(device, scheme_of(row.format, row.sparsity))
    if reason:
        return f"of {row.format} {row.sparsity} cannot be: {reason}"
    tflops = 2e-6 * row.m * row.n * row.k / row.us
    if tflops > MOST_OF_PEAK * peak:
        return f"of {row.format} {row.sparsity} beat 105 % of the peak of {peak:g} TFLOPS"
    return ""


def _peak(row: Row, device: Device) -> float | None:
    rate = rate_of(row.format)
    peak = device.peak_tflops.get(rate)
    if row.sparsity == "dense" or peak is None:
        return peak
    return device.sparse_peak_tflops.get(rate, 2 * peak)


def _check_unit(own: Sequence[Row], kept: Sequence[Row], device: Device, where: str) -> None:
    known = [row for row in own if _peak(row, device) is not None]
    ratios = np.array(list(_over_roofline(known, device)))
    if not len(ratios):
        return
    fast = float((ratios < 1 / MOST_OF_PEAK).mean())
    if len(known) >= 5 and fast > 0.5 and float(np.median(ratios)) < 0.2:
        raise DeviceError(
            f"{where}: {fast:.0%} of the rows of {device.name} beat its peak, by {1 / np.median(ratios):.3g} times in "
            "the median: is the latency in the unit that its column names?"
        )
    if len(kept) >= 5 and float(np.median(ratios)) > _SLOW:
        raise DeviceError(
            f"{where}: the rows of {device.name} are {np.median(ratios):.3g} times slower than its datasheet in the "
            "median: is the latency in the unit that its column names?"
        )


def _over_roofline(rows: Sequence[Row], device: Device) -> Iterator[float]:
    """Yield measured latency over the least that the peak allows; of slow ones, over a launch beside it."""
    for row in rows:
        least = 2e-6 * row.m * row.n * row.k / (_peak(row, device) or 1.0)
        yield row.us / least if row.us < least else max(1.0, row.us / (least + _LAUNCH_US))


def _measured(key: tuple[str, str], rows: Sequence[Row]) -> Measured:
    """Rows as arrays; of kernels measured more than once, the median."""
    times: dict[tuple[int, int, int], list[float]] = {}
    for row in rows:
        times.setdefault((row.m, row.n, row.k), []).append(row.us)
    sizes = np.array(list(times), np.float64)
    return Measured(*key, sizes, np.array([float(np.median(us)) for us in times.values()]))
