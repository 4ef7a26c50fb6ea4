"""Options of commands are the keys of a job."""

import subprocess
import sys
from pathlib import Path

import pytest

from mpsearch.runs.job import Job
from mpsearch.runs.knob import GROUPS, find_keys
from tests.support.command_line import Mpsearch


def test_search_takes_every_key_under_its_heading(mpsearch: Mpsearch) -> None:
    said = mpsearch("search", "--help").out
    for key in find_keys(Job):
        assert f"{key.option} " in said, key.name
    places = [said.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    assert places[-1] < said.index("\nOptions:\n")


@pytest.mark.parametrize("command", ["cost", "sensitivity", "search"])
def test_what_is_asked_is_a_job_or_a_model(command: str, mpsearch: Mpsearch) -> None:
    assert "{JOB.toml|MODEL.onnx}" in mpsearch(command, "--help").out
    assert mpsearch(command).code == 2


def test_options_of_every_kind_reach_the_job(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    import tomllib

    options = ["--schemes", "fp8, nvfp4", "--keep", "stem", "--keep", "he*", "--shape", "x=0,3,6,6"]
    options += ["--budget", 40, "--max-loss", 0.5, "--faster", 0.2, "--max-memory", "8GB"]
    where = ["--device", "npu_200tops", "-o", tmp_path / "run"]
    assert mpsearch("search", tiny / "tiny.onnx", *options, *where).code == 0
    job = tomllib.loads((tmp_path / "run/job.toml").read_text())
    assert job["schemes"] == ["fp8", "nvfp4"]
    assert job["keep"] == ["stem", "he*"]
    assert job["shapes"] == {"x": [0, 3, 6, 6]}
    assert job["budget"] == 40
    assert job["limits"] == {"loss": 0.5}
    assert job["faster"] == 0.2
    assert job["max_memory"] == "8GB"


def test_a_wrong_value_is_an_error_that_says_what_the_key_is(
    tiny: Path, mpsearch: Mpsearch
) -> None:
    found = mpsearch("search", tiny / "tiny.onnx", "--device", "npu_200tops", "--budget", "all")
    assert found.code == 1
    assert "budget: must be a number of at least 0" in found.err
    assert "it is: whole-plan measurements" in found.err


def test_sensitivity_says_which_device_it_took(tiny: Path, mpsearch: Mpsearch) -> None:
    asked = ["sensitivity", tiny / "tiny.onnx", "--data", tiny / "calib.npz", "--metric", "sqnr"]
    said = "--device was not given: schemes and their limits are those of npu_200tops"
    assert mpsearch(*asked, "--json").json["device"] == "npu_200tops"
    assert said in mpsearch(*asked).out
    assert said not in mpsearch(*asked, "--device", "npu_200tops").out


def test_the_list_of_commands_reads_no_fields() -> None:
    code = "import sys; from mpsearch.cli.app import app; app(['--help'], standalone_mode=False)"
    code += "; print('pydantic' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["False", "False"]
