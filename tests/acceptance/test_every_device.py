"""A small model is searched for every device that ships, in the device's own space."""

from pathlib import Path

import pytest

import mpsearch as mp
from mpsearch.registry import data_folder
from tests.support.command_line import Mpsearch, Result

DEVICES = sorted(path.stem for path in data_folder("cost_models").glob("*.toml"))


def test_there_are_31_devices() -> None:
    assert len(DEVICES) == 31


@pytest.mark.parametrize("device", DEVICES)
def test_a_small_model_is_searched_on_every_device(
    tiny: Path, mpsearch: Mpsearch, tmp_path: Path, device: str
) -> None:
    run = tmp_path / "run"
    files = (tiny / "tiny.onnx", "--data", tiny / "calib.npz", "--device", device)
    found = mpsearch("search", *files, "--batch-size", 8, "--measure", 2, "--refine", 0, "-o", run)
    assert found.code == 0, found.err
    result = mp.open_run(run)
    assert result.costs is not None
    assert result.costs.device == device
    assert result.costs.allowed.sum() > len(result.costs.groups)  # something to choose
    assert result.front is not None
    assert result.front.points


def test_an_operating_point_is_searched_and_a_run_of_it_goes_on_only_with_it(
    tiny: Path, mpsearch: Mpsearch, tmp_path: Path
) -> None:
    def search(device: str) -> Result:
        files = (tiny / "tiny.onnx", "--data", tiny / "calib.npz", "--device", device)
        short = ("--batch-size", 8, "--measure", 2, "--refine", 0)
        return mpsearch("search", *files, *short, "-o", tmp_path / "run")

    assert search("npu_200tops@0.7V").code == 0
    costs = mp.open_run(tmp_path / "run").costs
    assert costs is not None
    assert costs.device == "npu_200tops@0.7V"
    assert search("npu_200tops@0.7V").code == 0
    assert search("npu_200tops").code == 1
