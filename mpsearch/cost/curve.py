"""The curve of measured kernels: tiles in waves over multiprocessors, a smooth maximum with traffic.

    tau  = c + (tc^p + tm^p)^(1/p)
    tc   = smooth minimum over tiles (tm × tn, the reduction split s times) of
           waves · [max(2 tm tn K/s · (1 + loss/tm + loss/tn) / (P_sm e), bytes of a tile / B_sm) + prologue]
           + traffic of the partial sums
    tm   = bytes / (bandwidth · e_m · cache gain), where the gain ends at the last cache's size: 1 / (1 + (bytes / cache)^12)

A wave is one tile on each multiprocessor. The library is taken to choose the fastest tile. P_sm and B_sm are
peak and bandwidth of one multiprocessor.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpsearch.stats.estimates import Bools, Floats

TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128))
"""Rows and columns of the tiles of the result that are tried."""
SPLITS = (1, 3)
"""How often the reduction of a tile is split: what is tried."""
PARAMETERS = (
    "launch_us",
    "power",
    "efficiency",
    "memory_efficiency",
    "stream",
    "prologue_k",
    "tile_loss",
    "split_loss",
    "wide_loss",
    "large_loss",
    "cache_gain",
)
_BLOCK = 16384
"""Kernels at a time: their arrays stay in the cache."""
_LEAST_ROWS, _MMA_ROWS = 64, 16
"""Below 64 rows other kernels run, which compute on the next 16."""
_WIDE = 20_000
_LONG_US = 500
_PARTIAL_SUM_BYTES = 8  # written and read, fp32


@dataclass(frozen=True, slots=True)
class Machine:
    """What a curve needs to know of a device, for one format.

    Attributes:
        flops_per_us: Peak of the format and pattern.
        bytes_per_us: Memory bandwidth.
        multiprocessors: Tiles that run at once.
        cache_bytes: Last cache; 0 where it is not known.
    """

    flops_per_us: float
    bytes_per_us: float
    multiprocessors: int
    cache_bytes: float


@dataclass(frozen=True, slots=True)
class Shapes:
    """N kernels, each field an array [N].

    Attributes:
        m: Rows.
        n: Columns of one group.
        k: Reduction, padded to blocks.
        copies: Products of this size that run together (batched, grouped).
        left_bytes: Bytes of an activation's element.
        right_bytes: Bytes of a weight's element, scales and pattern included.
        moved: Bytes of all operands and the result.
    """

    m: Floats
    n: Floats
    k: Floats
    copies: Floats
    left_bytes: Floats
    right_bytes: Floats
    moved: Floats

    def __len__(self) -> int:
        """N."""
        return len(self.m)

    def take(self, which: slice | Bools) -> "Shapes":
        """Return the kernels that ``which`` selects."""
        return Shapes(*(getattr(self, name)[which] for name in self.__slots__))


def curve_us(theta: Floats, machine: Machine, shapes: Shapes) -> Floats:
    """Return the latency [N] of ``shapes`` by the parameters ``theta`` (see :func:`encode`)."""
    result = np.empty(len(shapes))
    for start in range(0, len(shapes), _BLOCK):
        part = slice(start, start + _BLOCK)
        result[part] = _block_us(theta, machine, shapes.take(part))
    return result


def encode(**parameters: float) -> Floats:
    """Return the vector that a fit moves: logarithms, so that each parameter stays positive.

    ``power`` is ln(p - 1), and ``cache_gain`` is a logarithm already.
    """
    values = [parameters[name] for name in PARAMETERS]
    values[1] -= 1.0
    theta = np.log(np.maximum(values, 1e-9))
    theta[-1] = parameters["cache_gain"]
    return theta


def decode(theta: Floats) -> dict[str, float]:
    """Return the parameters by name: the inverse of :func:`encode`."""
    values = np.exp(theta)
    values[1] += 1.0
    values[-1] = theta[-1]
    return dict(zip(PARAMETERS, values.tolist(), strict=True))


def _block_us(theta: Floats, machine: Machine, x: Shapes) -> Floats:
    p = decode(theta)
    exponent = p["power"]
    inverse = np.zeros(len(x))  # sum over tiles of 1/t^8: the fastest counts most
    for t in _tile_times_us(p, machine, x):
        np.divide(1.0, t, out=t)
        for _ in range(3):
            t *= t
        inverse += t
    tc = 1 / np.sqrt(np.sqrt(np.sqrt(inverse)))
    work = 2 * x.m * x.n * x.k * x.copies / machine.flops_per_us
    wide = (x.n / _WIDE) ** 3
    loss = p["wide_loss"] * (wide / (1 + wide)) + p["large_loss"] * (work / (work + _LONG_US))
    tc *= np.exp(loss)
    tm = x.moved / (machine.bytes_per_us * p["memory_efficiency"])
    if machine.cache_bytes:
        over = (x.moved / machine.cache_bytes) ** 2
        over *= over
        tm *= np.exp(-p["cache_gain"] / (1 + over * over * over))
    high, low = np.maximum(tc, tm), np.minimum(tc, tm)
    ratio = np.exp(exponent * np.log(low / high))
    result: Floats = p["launch_us"] + high * np.exp(np.log1p(ratio) / exponent)
    return result


def _tile_times_us(p: dict[str, float], machine: Machine, x: Shapes) -> Iterator[Floats]:
    """Yield the time [N] of the result by each tile and split."""
    rate = machine.flops_per_us * p["efficiency"] / machine.multiprocessors
    bandwidth = machine.bytes_per_us * p["stream"] / machine.multiprocessors
    sums = x.m * x.n * x.copies * (_PARTIAL_SUM_BYTES * p["split_loss"] / machine.bytes_per_us)
    few = np.minimum(1.0, np.ceil(x.m / _MMA_ROWS) * (_MMA_ROWS / _LEAST_ROWS))
    prologue = few * (p["prologue_k"] / rate)
    down = {rows: np.ceil(x.m / rows) / machine.multiprocessors for rows, _ in TILES}
    across = {columns: np.ceil(x.n / columns) * x.copies for _, columns in TILES}
    left = {rows: np.minimum(rows, x.m) * (x.left_bytes / bandwidth) for rows in down}
    right = {columns: columns * (x.right_bytes / bandwidth) for columns in across}
    for rows, columns in TILES:
        area = 2.0 * rows * columns
        tiles = down[rows] * across[columns]
        compute = few * (area * (1 + p["tile_loss"] * (1 / rows + 1 / columns)) / rate)
        whole = np.maximum(compute, left[rows] + right[columns])
        whole *= x.k
        start = area * prologue
        for split in SPLITS:
            time = np.ceil(tiles * split if split > 1 else tiles)
            time *= whole / split + start if split > 1 else whole + start
            if split > 1:
                time += sums * split
            yield time
