"""Kernels of a GPU that is made up: latencies by a known formula, written as a CSV file."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from mpsearch.cost.device import Device

SHAPES = ((1024, 1024), (1024, 4096), (4096, 1024), (4096, 4096), (8192, 2048), (2048, 8192))
ROWS = (16, 64, 256, 1024, 4096, 16384)


def board(**changes: object) -> Device:
    """100 TFLOPS in fp16, 200 in fp8, 1 TB/s, 64 multiprocessors."""
    facts = {
        "name": "mine",
        "title": "My board",
        "aliases": ["BOARD"],
        "bandwidth_gb_s": 1000,
        "multiprocessors": 64,
        "l2_mb": 32,
        "formats": ["fp16", "bf16", "fp8"],
        "weight_only": ["int4"],
        "sparsity": {"2:4": ["fp16", "fp8"]},
        "peak_tflops": {"fp16": 100, "bf16": 100, "fp8": 200},
    }
    return Device.model_validate(facts | changes)


def plain_us(m: int, n: int, k: int, *, tflops: float, element: float) -> float:
    """5 µs, and computing plus moving: nothing of how the fitted curve is made."""
    compute = 2e-6 * (m + 40) * (n + 60) * k / tflops
    moved = (element * (m * k + n * k) + 2 * m * n) / 0.8e6
    return 5 + compute + moved


def kernels(kind: str = "fp16") -> Iterator[tuple[int, int, int, float]]:
    """Yield M, N, K and microseconds of kernels that reach 80 % of the board's peak."""
    tflops, element = {"fp16": (80.0, 2.0), "fp8": (160.0, 1.0)}[kind]
    for m, (n, k) in product(ROWS, SHAPES):
        yield m, n, k, plain_us(m, n, k, tflops=tflops, element=element)


def write_csv(
    path: Path,
    *,
    kinds: tuple[str, ...] = ("fp16",),
    unit: str = "latency_us",
    scale: float = 1.0,
    extra: tuple[str, ...] = (),
    gpu: str = "BOARD",
) -> Path:
    """Write the kernels of ``kinds``, and the lines ``extra``."""
    lines = [f"gpu,dtype,sparsity,m,n,k,{unit}"]
    for kind in kinds:
        lines += [f"{gpu},{kind},dense,{m},{n},{k},{us * scale!r}" for m, n, k, us in kernels(kind)]
    path.write_text("\n".join([*lines, *extra]) + "\n")
    return path
