"""Devices that ship with fitted kernels meet what was published of them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mpsearch.cost.device import measured_quantization, read_device
from mpsearch.cost.gemm import gemm_latency
from mpsearch.cost.products import element_bytes
from mpsearch.schemes import find_scheme

DATA = Path(__file__).resolve().parents[2] / "experiments" / "data"
Kernels = dict[tuple[str, str, str, int, int, int], float]
SHAPES = ((2048, 8192), (3072, 3072), (3584, 18944), (5120, 3072), (16384, 3072), (37888, 3584))


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    """(GPU, format, sparsity, M, N, K) to measured microseconds."""
    with (DATA / "gemm_latency.csv").open() as file:
        return {
            (*(row[x] for x in ("gpu", "dtype", "sparsity")), *(int(row[x]) for x in "mnk")): float(
                row["latency_us"]
            )
            for row in csv.DictReader(file)
        }


def gain(device: str, scheme: str, base: str, m: int) -> float:
    """Median over layers of language models of base's latency over the scheme's."""
    n, k = np.array(SHAPES).T
    slow, fast = (np.asarray(gemm_latency(device, name, m, n, k).mean) for name in (base, scheme))
    return float(np.median(slow / fast))


@pytest.mark.parametrize(
    ("gpu", "device", "base"),
    [
        ("A100", "a100_pcie_80gb", "bf16"),
        ("H100", "h100_pcie_80gb", "bf16"),
        ("H100", "h100_pcie_80gb", "fp8"),
        ("B200", "b200_hgx", "fp8"),
        ("RTX4090", "rtx4090", "int8"),
    ],
)
def test_the_gain_of_2_of_4_by_rows_is_that_of_the_sweep(
    kernels: Kernels, gpu: str, device: str, base: str
) -> None:
    for m in (64, 256, 1024, 4096, 16384):
        dense, sparse = (
            {key[4:]: us for key, us in kernels.items() if key[:4] == (gpu, base, kind, m)}
            for kind in ("dense", "2:4")
        )
        shapes = sorted(dense.keys() & sparse.keys())
        n, k = np.array(shapes).T
        slow, fast = (
            np.asarray(gemm_latency(device, name, m, n, k).mean) for name in (base, f"{base}_2of4")
        )
        measured = np.median([dense[shape] / sparse[shape] for shape in shapes])
        assert np.median(slow / fast) == pytest.approx(measured, rel=0.12), m


@pytest.mark.parametrize(
    ("gpu", "device", "base", "published"),
    [
        ("A100", "a100_pcie_80gb", "bf16", (1.34, 1.39, 1.44, 1.63, 1.60)),
        ("H100", "h100_pcie_80gb", "bf16", (0.97, 1.06, 1.39, 1.60, 1.57)),
        ("H100", "h100_pcie_80gb", "fp8", (1.13, 0.95, 1.30, 1.48, 1.62)),
        ("B200", "b200_hgx", "fp8", (1.19, 1.19, 1.22, 1.51, 1.70)),
    ],
)
def test_the_gain_of_2_of_4_by_rows_is_that_of_the_textbook(
    kernels: Kernels, gpu: str, device: str, base: str, published: tuple[float, ...]
) -> None:
    """Medians over layers of language models, those of the sweep that are not square."""
    shapes = {key[4:] for key in kernels if key[:2] == (gpu, base) and key[4] != key[5]}
    n, k = np.array(sorted(shapes)).T
    for m, expected in zip((64, 256, 1024, 4096, 16384), published, strict=True):
        slow, fast = (
            np.asarray(gemm_latency(device, name, m, n, k).mean) for name in (base, f"{base}_2of4")
        )
        assert np.median(slow / fast) == pytest.approx(expected, rel=0.12), m


def test_fp8_over_bf16() -> None:
    for m in (64, 1024, 16384):
        assert 1.3 < gain("h100_pcie_80gb", "fp8", "bf16", m) < 2.0
    assert gain("b200_hgx", "fp8", "bf16", 64) < gain("b200_hgx", "fp8", "bf16", 16384)


def test_nvfp4_on_a_b200_with_and_without_quantising_activations() -> None:
    device, nvfp4 = read_device("b200_hgx"), find_scheme("nvfp4")
    kernel = measured_quantization(device, "nvfp4")
    assert kernel is not None
    with (DATA / "b200_nvfp4.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kernel"].startswith("nvfp4")]
    for row in rows:
        m, n, k = (int(row[size]) for size in "mnk")
        published = 2e-6 * m * n * k / float(row["tflops"])
        us = gemm_latency(device, nvfp4, m, n, k).mean
        if row["kernel"] == "nvfp4 with quantisation":
            moved = m * k * (2 + element_bytes(nvfp4.activation))
            us += kernel.launch_us + moved / (7.7e6 * kernel.memory_efficiency)
        assert us == pytest.approx(published, rel=0.08), row


def test_narrow_formats_are_slower_than_bf16_for_few_rows() -> None:
    device = read_device("b200_hgx")
    kernel = measured_quantization(device, "nvfp4")
    assert kernel is not None
    bf16, fp8, nvfp4 = (
        gemm_latency(device, name, 1, 6144, 4096).mean for name in ("bf16", "fp8", "nvfp4")
    )
    assert fp8 + kernel.launch_us > bf16
    assert nvfp4 > bf16
    many = [gemm_latency(device, name, 16384, 6144, 4096).mean for name in ("bf16", "nvfp4")]
    assert many[1] < 0.5 * many[0]


def test_the_peak_of_an_a100_in_fp16_is_312_dense() -> None:
    device = read_device("a100_pcie_80gb")
    assert device.peak_tflops["fp16"] == 312
    us = gemm_latency(device, "fp16", 8192, 8192, 8192).mean
    assert 156 < 2e-6 * 8192**3 / us < 312
