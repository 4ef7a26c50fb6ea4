"""A run that is told to end leaves a usable front, and one that finds no room says so in one line."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mpsearch.problem.front import read_front
from mpsearch.runs.status import read_status
from tests.support.command_line import SEARCH, Mpsearch


def test_sigterm_ends_a_run_as_ctrl_c_does(tiny: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    run = tmp_path / "run"
    seen: list[str] = []

    def end_it() -> None:
        """Tell the command to end once its front is there; it is at its self-test then."""
        for _ in range(3000):
            time.sleep(0.1)
            if (run / "front.json").is_file() and (run / "lock").is_file():
                seen.append(read_status(run).state)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=end_it)
    thread.start()
    ended = mpsearch(*SEARCH(tiny), "--self-test", "4000", "-o", run)
    thread.join()
    assert ended.code == 143
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("interrupted: ")
    assert "run the same command again to go on" in last
    assert read_front(run / "front.json").points
    assert (seen, read_status(run).state) == (["running"], "interrupted")
    assert not (run / "lock").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    tmp_path.chmod(0o500)
    found = mpsearch(*SEARCH(tiny), "-o", tmp_path / "run")
    tmp_path.chmod(0o700)
    assert found.code == 1
    assert "must be writable" in found.err


def test_an_unknown_stage_is_one_line(tiny: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    found = mpsearch(*SEARCH(tiny), "-o", tmp_path / "run", "--from", "fronts")
    assert found.code == 1
    assert "a stage must be one of graph, costs, sensitivity" in found.err
    assert not (tmp_path / "run").exists()


def test_a_stage_is_computed_again_from_what_was_measured(
    finished: Path, tiny: Path, mpsearch: Mpsearch
) -> None:
    before = {name: (finished / name).read_bytes() for name in ("front.json", "costs.json")}
    again = mpsearch(
        *SEARCH(tiny),
        "--eval",
        tiny / "held.npz",
        "-o",
        finished,
        "--from",
        "sensitivity",
        "--json",
    )
    assert again.code == 0
    events = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    begun = [event.get("stage") for event in events if event.get("state") == "begin"]
    assert begun.count("sensitivity") == 2
    assert {name: (finished / name).read_bytes() for name in before} == before
