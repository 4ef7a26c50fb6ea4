"""An interrupted profile goes on where it was, and never with what another machine or model measured."""

from pathlib import Path

import pytest

from mpsearch.errors import ArtifactError
from mpsearch.profile.journal import Journal


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / ".cpu.toml.journal"
    first = Journal(path, {"model": "a"})
    first.add("f Conv", {"timing": [1.0, 0.1, 9]})
    first.add("f Conv", {"timing": [0.9, 0.1, 20]})
    with path.open("a") as file:
        file.write('{"subject": {"model": "a"}, "name": "f MatMul", "meas')  # killed while it wrote
    again = Journal(path, {"model": "a"})
    assert again.get("f Conv") == {"timing": [0.9, 0.1, 20]}
    assert again.get("f MatMul") is None
    assert Journal(path, {"model": "b"}).get("f Conv") is None
    again.close()
    assert not path.exists()


def test_rounds_are_found_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / ".cpu.toml.journal"
    first = Journal(path, {"model": "a"})
    first.add_round({"f Conv": (10.0, 100.0), "empty": (1.0, 90.0)})
    first.add_round({"f Conv": (11.0, 101.0)})
    assert not first.rounds_of("f Conv")  # those before it alone
    again = Journal(path, {"model": "a"})
    assert again.rounds_of("f Conv") == [(10.0, 100.0), (11.0, 101.0)]
    assert again.rounds_of("empty") == [(1.0, 90.0)]
    assert not Journal(path, {"model": "b"}).rounds_of("empty")


def test_a_journal_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        Journal(tmp_path, {})
