"""--max-memory: passed on to the simulator, checked before anything is read."""

from pathlib import Path

import pytest

from mpsearch.simulate.simulator import Simulator
from tests.support.command_line import Mpsearch


def test_the_simulator_gets_the_memory_that_was_asked_for(
    tiny: Path, mpsearch: Mpsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int | None] = []
    original = Simulator.__init__

    def noted(self: Simulator, *args: object, **kwargs: object) -> None:
        given.append(kwargs.get("max_memory"))  # type: ignore[arg-type]
        original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Simulator, "__init__", noted)
    command = ["sensitivity", tiny / "tiny.onnx", "--data", tiny / "calib.npz", "--batch-size", 8]
    plain = mpsearch(*command, "-o", tmp_path / "a.json")
    bounded = mpsearch(*command, "-o", tmp_path / "b.json", "--max-memory", "2GB")
    assert (plain.code, bounded.code) == (0, 0), plain.err + bounded.err
    assert given[0] is None
    assert given[-1] == 2_000_000_000
    wrong = mpsearch(*command, "-o", tmp_path / "c.json", "--max-memory", "lots")
    assert wrong.code == 1
    assert "2GB, 512MB" in wrong.err
    assert not (tmp_path / "c.json").exists()
