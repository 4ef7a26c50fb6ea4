"""Sizes of memory in words."""

import pytest

from mpsearch.errors import JobError
from mpsearch.runs.job_file import change_job, job_text, new_job
from mpsearch.runs.run_folder import difference


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2_000_000_000),
        ("512MB", 512_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("64kb", 64_000),
        ("4096", 4096),
        ("100B", 100),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    job = new_job({"model": "m.onnx", "device": "t4", "max_memory": text})
    assert job.memory_bytes == size


@pytest.mark.parametrize(
    "text", ["much", "GB", "2,5GB", "2GB or so", "-1GB", "2 gigabytes", "1e9", "2XB"]
)
def test_other_words_are_refused_with_examples(text: str) -> None:
    with pytest.raises(JobError, match=r"^max_memory: must read like 2GB, 512MB.*got"):
        new_job({"model": "m.onnx", "device": "t4", "max_memory": text})


def test_nothing_limits_memory_where_no_size_is_given() -> None:
    assert new_job({"model": "m.onnx", "device": "t4"}).memory_bytes is None


def test_a_job_keeps_the_word_and_refuses_a_wrong_one() -> None:
    job = new_job({"model": "m.onnx", "device": "t4", "max_memory": "2GB"})
    assert 'max_memory = "2GB"' in job_text(job)
    with pytest.raises(JobError, match=r"max_memory.*2GB, 512MB"):
        new_job({"model": "m.onnx", "device": "t4", "max_memory": "much"})


def test_a_run_goes_on_with_other_memory() -> None:
    job = new_job({"model": "m.onnx", "device": "t4", "max_memory": "2GB"})
    assert difference(job, change_job(job, {"max_memory": "1GB"})) == ""
    assert "seed" in difference(job, change_job(job, {"max_memory": "1GB", "seed": 3}))
