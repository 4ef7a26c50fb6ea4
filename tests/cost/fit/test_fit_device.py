from pathlib import Path

import numpy as np
import pytest

from mpsearch.cost.device import Device, read_device
from mpsearch.cost.fit.fit_device import borrowed_kernels, device_text, fit_device
from mpsearch.cost.fit.measurements import Measurements, read_rows, select
from mpsearch.cost.gemm import gemm_latency
from tests.support.measured_kernels import board, plain_us, write_csv

HEAD = """name = "mine"  # of the user's
title = "My board"
bandwidth_gb_s = 1000
multiprocessors = 64
l2_mb = 32
formats = ["fp16", "bf16", "fp8"]
[peak_tflops]
fp16 = 100
bf16 = 100
fp8 = 200
"""


def measured(tmp_path: Path, *kinds: str) -> Measurements:
    rows, _ = read_rows(write_csv(tmp_path / "x.csv", kinds=kinds))
    return select(rows, board(), names=["BOARD"], where="x.csv")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Device:
    path = tmp_path_factory.mktemp("fit")
    groups = fit_device(board(), measured(path, "fp16"), source="x.csv")
    kernels = [group.kernels for group in groups]
    kernels += borrowed_kernels(board(), kernels, ())
    return board(kernels=kernels)


def test_kernels_between_those_that_were_fitted_are_met(fitted: Device) -> None:
    m, n, k = np.array([[48, 3000, 3000], [512, 2048, 4096], [9000, 6000, 1500]]).T
    expected = [
        plain_us(*map(int, size), tflops=80, element=2) for size in zip(m, n, k, strict=True)
    ]
    got = gemm_latency(fitted, "fp16", m, n, k)
    np.testing.assert_allclose(got.mean, expected, rtol=0.15)
    assert (np.asarray(got.stderr) < 0.15 * np.asarray(got.mean)).all()


def test_errors_of_kernels_left_out_are_small_and_within_their_standard_errors(
    tmp_path: Path,
) -> None:
    (group,) = fit_device(board(), measured(tmp_path, "fp16"))
    assert group.predicted is not None
    errors = group.predicted.errors
    assert errors.mean() < 0.08
    assert group.kernels.cross_validated == pytest.approx(errors.mean(), rel=1e-3)
    z = np.abs(group.predicted.us - group.predicted.measured_us) / group.predicted.stderr
    assert (z <= 1.96).mean() > 0.85


def test_what_nobody_measured_is_borrowed_and_said(fitted: Device) -> None:
    kernels = {(k.format, k.sparsity): k for k in fitted.kernels}
    assert kernels["bf16", "dense"].borrowed_from == "own fp16 dense"
    assert kernels["fp8", "dense"].points == 0
    fp8 = gemm_latency(fitted, "fp8", 8192, 8192, 8192)
    fp16 = gemm_latency(fitted, "fp16", 8192, 8192, 8192)
    assert fp8.mean < 0.7 * fp16.mean
    assert fp8.stderr / fp8.mean > 2 * fp16.stderr / fp16.mean


def test_few_kernels_are_helped_by_another_device(tmp_path: Path, fitted: Device) -> None:
    few = measured(tmp_path, "fp16")
    group = few.groups["fp16", "dense"]
    some = np.arange(len(group.us)) % 6 == 0
    less = Measurements({("fp16", "dense"): group.take(some)}, {}, int(some.sum()))
    other = fitted.model_copy(update={"name": "theirs"})
    many = other.kernels[0].model_copy(update={"points": 100})
    other = other.model_copy(update={"kernels": (many,)})
    (helped,) = fit_device(board(), less, references=[other])
    assert helped.kernels.borrowed_from == "fp16 dense of theirs"
    mine = board(kernels=[helped.kernels])
    m, n, k = group.sizes[~some].T.astype(np.int64)
    got = np.asarray(gemm_latency(mine, "fp16", m, n, k).mean)
    assert np.abs(got / group.us[~some] - 1).mean() < 0.1


def test_a_device_file_keeps_what_was_said_and_is_read_back(tmp_path: Path, fitted: Device) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(device_text(HEAD, fitted.kernels))
    assert path.read_text().startswith(HEAD.strip())
    again = read_device(path)
    assert again.kernels == fitted.kernels
    path.write_text(device_text(path.read_text(), again.kernels[:1]))
    assert read_device(path).kernels == again.kernels[:1]
