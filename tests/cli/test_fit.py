"""Measured kernels become a device file that other commands take; what is wrong is said in one line."""

from pathlib import Path

import pytest

from mpsearch.cost.device import read_device
from tests.support.command_line import Mpsearch
from tests.support.measured_kernels import write_csv

DATASHEET = """name = "mine"
title = "My board"
bandwidth_gb_s = 1000
multiprocessors = 64
formats = ["fp16", "fp8"]
[peak_tflops]
fp16 = 100
fp8 = 200
"""


@pytest.fixture
def datasheet(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(DATASHEET)
    return path


def test_a_device_file_is_fitted_evaluated_and_written(
    tmp_path: Path, datasheet: Path, mpsearch: Mpsearch
) -> None:
    bad = ("BOARD,fp16,dense,8192,8192,8192,100",)
    csv = write_csv(tmp_path / "x.csv", extra=bad)
    out = tmp_path / "fitted.toml"
    options = ("--gpu", "BOARD", "--device", datasheet, "--evaluate", csv, "-o", out, "--json")
    done = mpsearch("fit", csv, *options)
    assert done.code == 0, done.err
    (why,) = done.json["rejected"]
    assert done.json["rejected"][why] == 1
    assert "beat 105 %" in why
    assert done.json["pooled"]["mean_error"] < 0.1
    assert done.json["evaluated_pooled"]["mean_error"] < 0.05
    device = read_device(out)
    assert [k.format for k in device.kernels if k.points] == ["fp16"]
    assert {k.format for k in device.kernels if k.borrowed_from and not k.points} == {"fp8"}


def test_people_read_a_table(tmp_path: Path, datasheet: Path, mpsearch: Mpsearch) -> None:
    csv = write_csv(tmp_path / "x.csv")
    done = mpsearch("fit", csv, "--gpu", "BOARD", "--device", datasheet)
    assert done.code == 0, done.err
    assert "mine: 36 rows, 36 kernels fitted" in done.out
    assert "fp8 dense from fp8 dense of b200_hgx" in done.out
    assert "ignored" not in done.out


def test_columns_that_say_nothing_to_a_fit_are_named_once(
    tmp_path: Path, datasheet: Path, mpsearch: Mpsearch
) -> None:
    csv = write_csv(tmp_path / "x.csv")
    head, *rows = csv.read_text().splitlines()
    lines = [f"{head},Clock_MHz,batch", *(f"{row},1000,2" for row in rows)]
    csv.write_text("\n".join(lines) + "\n")
    done = mpsearch("fit", csv, "--gpu", "BOARD", "--device", datasheet)
    assert done.code == 0, done.err
    assert done.out.count("ignored: columns clock_mhz, batch") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu", "BOARD"), "no device is known as 'BOARD' (see `mpsearch list devices`)"),
        (("--gpu", "A100"), "x.csv: has no rows of A100 or a100_pcie_80gb in column gpu"),
        (("--gpu", "BOARD", "--device", "nowhere.toml"), "nowhere.toml"),
        (("--gpu", "A100", "-o", "x.txt"), "-o must name a .toml file"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, mpsearch: Mpsearch, options: tuple[str, ...], message: str
) -> None:
    done = mpsearch("fit", write_csv(tmp_path / "x.csv"), *options)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_what_exists_is_not_overwritten(
    tmp_path: Path, datasheet: Path, mpsearch: Mpsearch
) -> None:
    csv = write_csv(tmp_path / "x.csv")
    done = mpsearch("fit", csv, "--gpu", "BOARD", "--device", datasheet, "-o", datasheet)
    assert done.code == 1
    assert "mine.toml: exists" in done.err
    assert datasheet.read_text() == DATASHEET
