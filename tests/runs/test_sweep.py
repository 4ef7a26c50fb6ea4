"""A sweep is every combination of its lists, and what is wrong with it is one line."""

from pathlib import Path

import pytest

from mpsearch.errors import JobError
from mpsearch.runs.job_file import read_job
from mpsearch.runs.sweep import read_jobs

HEAD = 'model = "m.onnx"\ndata = "d.npz"\ndevice = "npu_200tops"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text)
    return path


def test_a_file_without_a_sweep_is_one_job(tmp_path: Path) -> None:
    (one,) = read_jobs(write(tmp_path, HEAD))
    assert (one.name, one.job) == ("", read_job(tmp_path / "job.toml"))


def test_every_value_meets_every_other(tmp_path: Path) -> None:
    sweep = '[sweep]\ndevice = ["npu_200tops", "my/own.toml"]\nbudget = [30, "full"]\nseed = [0, 1, 2]\n'
    jobs = read_jobs(write(tmp_path, HEAD + sweep))
    assert len({(one.job.device, one.job.budget, one.job.seed) for one in jobs}) == 12
    assert jobs[0].name == "npu-200tops_30_0"
    assert jobs[-1].name == "own_full_2"
    assert len({one.name for one in jobs}) == 12


def test_keys_of_a_table_go_together(tmp_path: Path) -> None:
    text = (
        'device = "npu_200tops"\n[sweep]\nmodel = [{model = "a.onnx", data = "a.npz"}, '
        '{model = "b.onnx", data = "b.npz", samples = 8}]\n'
    )
    jobs = [one.job for one in read_jobs(write(tmp_path, text))]
    assert [(j.model, j.data, j.samples) for j in jobs] == [
        ("a.onnx", "a.npz", 128),
        ("b.onnx", "b.npz", 8),
    ]


def test_keys_of_tables_and_settings_can_be_swept(tmp_path: Path) -> None:
    text = HEAD + (
        '[sweep]\n"limits.latency_us" = [10.0, 20.0]\n"search.settings.sampler" = ["tpe", "gp"]\n'
    )
    jobs = [one.job for one in read_jobs(write(tmp_path, text))]
    assert [(j.limits.latency_us, j.search.settings["sampler"]) for j in jobs] == [
        (10.0, "tpe"),
        (10.0, "gp"),
        (20.0, "tpe"),
        (20.0, "gp"),
    ]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("devices = ['a']", r"job\.toml: sweep\.devices: no such key; .*device"),
        ("device = 'a'", r"job\.toml: sweep\.device: must be a list of values"),
        ("seed = [0, 'two']", r"job\.toml: sweep\.seed: .*got 'two'"),
        ("seed = []", r"job\.toml: sweep\.seed: must be a list"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_one_line(tmp_path: Path, sweep: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        read_jobs(write(tmp_path, f"{HEAD}[sweep]\n{sweep}\n"))


def test_a_search_of_a_sweep_is_told_to_be_a_batch(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"holds a sweep.*mpsearch batch job\.toml"):
        read_job(write(tmp_path, HEAD + "[sweep]\nseed = [0, 1]\n"))
