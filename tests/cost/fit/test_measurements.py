from pathlib import Path

import numpy as np
import pytest

from mpsearch.cost.fit.measurements import Measurements, read_rows, select
from mpsearch.errors import DeviceError
from tests.support.measured_kernels import ROWS, SHAPES, board, kernels, write_csv

COUNT = len(ROWS) * len(SHAPES)


def read(path: Path, **changes: object) -> Measurements:
    rows, _ = read_rows(path)
    return select(rows, board(**changes), names=["BOARD"], where=path.name)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("latency_us", 1), ("latency_ms", 1e-3), ("latency_s", 1e-6), ("latency_ns", 1e3)],
)
def test_units_are_converted(tmp_path: Path, unit: str, scale: float) -> None:
    got = read(write_csv(tmp_path / "x.csv", unit=unit, scale=scale))
    expected = [us for *_, us in kernels()]
    np.testing.assert_allclose(got.groups["fp16", "dense"].us, expected)


def test_impossible_rows_are_named_and_counted(tmp_path: Path) -> None:
    bad = (
        "BOARD,fp16,dense,4096,4096,4096,100",  # 1374 TFLOPS of 100
        "BOARD,fp16,dense,64,64,64,-1",
        "BOARD,fp16,dense,64,64,64,nan",
        "BOARD,fp16,dense,64,64,64,fast",
        "BOARD,fp16,dense,64.5,64,64,9",
        "BOARD,int8,dense,64,64,64,9",
        "BOARD,fp16,3:4,64,64,64,9",
        "BOARD,bf16,2:4,64,64,64,9",
        "BOARD,int4,dense,64,64,64,9",
    )
    path = write_csv(tmp_path / "x.csv", extra=bad)
    rows, unread = read_rows(path)
    device = board(peak_tflops={"fp16": 100, "bf16": 100, "int4": 400})
    got = select(rows, device, names=["BOARD"], where="x.csv")
    assert len(got.groups["fp16", "dense"].us) == COUNT
    said = {**unread, **got.rejected}
    assert {count for count, _ in said.values()} == {1}
    for word in (
        "beat 105 % of the peak of 100 TFLOPS",
        "not positive",
        "NaN",
        "no number",
        "whole numbers",
        "int8, of which mine states no peak",
        "sparsity 3:4",
        "bf16 2:4 cannot be: mine has 2:4 kernels for",
        "are of int4, of which there is no scheme",
    ):
        assert any(word in why for why in said), word
    assert said["have a latency that is not positive"] == (1, COUNT + 3)


def test_a_sparse_kernel_may_beat_the_dense_peak(tmp_path: Path) -> None:
    us = 2e-6 * 8192**3 / 150  # 150 of 100 TFLOPS dense, 200 sparse
    path = write_csv(tmp_path / "x.csv", extra=(f"BOARD,fp16,2:4,8192,8192,8192,{us}",))
    assert len(read(path).groups["fp16", "2:4"].us) == 1


def test_of_kernels_measured_again_the_median_counts(tmp_path: Path) -> None:
    again = tuple(f"BOARD,fp8,dense,64,64,64,{us}" for us in (9, 50, 7))
    got = read(write_csv(tmp_path / "x.csv", extra=again)).groups["fp8", "dense"]
    assert got.us.tolist() == [9]


@pytest.mark.parametrize("scale", [1e-3, 1e-6])
def test_milliseconds_called_microseconds_are_noticed(tmp_path: Path, scale: float) -> None:
    with pytest.raises(DeviceError, match=r"beat its peak.*in the unit that its column names"):
        read(write_csv(tmp_path / "x.csv", scale=scale))


def test_nanoseconds_called_microseconds_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"slower than its datasheet.*in the unit"):
        read(write_csv(tmp_path / "x.csv", scale=1e3))


def test_missing_columns_and_gpus_are_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", unit="latency")
    with pytest.raises(DeviceError, match=r"x\.csv: columns must be .*got gpu, .*latency$"):
        read_rows(path)
    rows, _ = read_rows(write_csv(tmp_path / "x.csv", gpu="H999"))
    with pytest.raises(DeviceError, match="no rows of BOARD in column gpu; there are: H999"):
        select(rows, board(), names=["BOARD"], where="x.csv")
    with pytest.raises(DeviceError, match=r"nowhere\.csv: cannot be read"):
        read_rows(tmp_path / "nowhere.csv")


def test_a_file_of_impossible_rows_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("gpu,dtype,sparsity,m,n,k,latency_us\nBOARD,int8,dense,64,64,64,9\n")
    with pytest.raises(DeviceError, match="no row is left to fit: 1 rows are of int8"):
        read(path)
