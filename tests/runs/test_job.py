import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.errors import JobError, UnknownNameError
from mpsearch.runs.job import Job
from mpsearch.runs.job_file import change_job, job_text, new_job, read_job, write_job
from mpsearch.runs.job_tables import Limits
from mpsearch.runs.knob import GROUPS, find_keys
from mpsearch.runs.run_folder import difference
from mpsearch.runs.sources import locate

texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
jobs = st.builds(
    Job,
    model=names,
    device=names,
    schemes=st.lists(texts, max_size=3).map(tuple),
    shapes=st.dictionaries(texts, st.lists(st.integers(0, 999), max_size=4).map(tuple), max_size=2),
    batch=st.integers(1, 2**40),
    limits=st.builds(
        Limits,
        latency_us=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        loss=st.none() | st.just(0.0),
    ),
    digests=st.dictionaries(texts, texts, max_size=2),
)


@given(jobs)
def test_a_job_survives_its_file(job: Job) -> None:
    assert new_job(tomllib.loads(job_text(job))) == job


def test_a_limit_of_zero_is_a_limit() -> None:
    assert Limits(loss=0.0).given() == {"loss": 0.0}
    assert Limits().given() == {}


def test_an_unknown_key_is_named_with_the_choices(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('model = "m"\ndevice = "d"\ndevices = "e"\n')
    with pytest.raises(JobError, match=r"job\.toml: devices: no such key; keys are: .*model, data"):
        read_job(tmp_path / "job.toml")


def test_options_are_put_over_a_job_limit_by_limit() -> None:
    job = Job(model="m", device="d", limits=Limits(latency_us=3.0, loss=0.1))
    changed = change_job(job, {"seed": 4, "limits": {"loss": 0.2}})
    assert changed.seed == 4
    assert changed.limits == Limits(latency_us=3.0, loss=0.2)


def test_the_first_difference_is_named() -> None:
    job = Job(model="m", device="d")
    assert difference(job, job) == ""
    assert difference(job, change_job(job, {"batch": 2})) == "batch: 1 there, 2 here"
    limited = change_job(job, {"limits": {"loss": 0.5}})
    assert difference(job, limited) == "limits.loss: null there, 0.5 here"


def test_files_are_found_beside_the_job_or_where_the_caller_says(tmp_path: Path) -> None:
    for name in ("m.onnx", "c.npz", "own.toml"):
        (tmp_path / name).write_text("")
    job = Job(model="m.onnx", data="c.npz", device="own.toml", space="npu")
    found = locate(job, tmp_path)
    assert found.model == tmp_path / "m.onnx"
    assert found.data == tmp_path / "c.npz"
    assert found.device == str(tmp_path / "own.toml")
    assert found.space == "npu"
    assert locate(job, tmp_path, data=tmp_path / "own.toml").data == tmp_path / "own.toml"


def test_what_is_missing_is_said_with_the_option_that_gives_it(tmp_path: Path) -> None:
    job = Job(model="m.onnx", device="npu_200tops")
    with pytest.raises(JobError, match=r"'m\.onnx' was not found; give it with --model"):
        locate(job, tmp_path)
    (tmp_path / "m.onnx").write_text("")
    write_job(job, tmp_path / "job.toml")
    with pytest.raises(UnknownNameError, match="device must be one of"):
        locate(job.model_copy(update={"device": "nope"}), tmp_path)


def test_a_budget_is_a_number_or_full() -> None:
    files = {"model": "m.onnx", "device": "npu_200tops"}
    assert new_job({**files, "budget": 40}).measurements == 40
    assert new_job({**files, "budget": "full"}).measurements is None
    assert new_job(files).measurements is None
    for wrong in ("all", -1):
        with pytest.raises(
            JobError, match=r'^budget: must be a number of at least 0, or "full", got'
        ):
            new_job({**files, "budget": wrong})


def test_an_error_says_what_the_key_is() -> None:
    with pytest.raises(
        JobError, match=r"^batch: .*, got 0; it is: samples that one latency is for$"
    ):
        new_job({"model": "m", "device": "d", "batch": 0})
    with pytest.raises(JobError, match=r"^device: must be given; it is: device that latencies"):
        new_job({"model": "m"})


def test_every_key_that_people_set_is_described_and_stands_under_a_heading() -> None:
    keys = {key.name: key for key in find_keys(Job)}
    assert Job.model_fields.keys() - keys.keys() == {
        *("extensions", "limits", "digests"),
        *("search", "sensitivity"),  # settings of plug-ins, which know their own
    }
    for key in keys.values():
        assert key.knob.group in GROUPS
        assert key.description.endswith(".")
        assert not key.knob.unset or key.knob.example is not None or key.name == "space"
