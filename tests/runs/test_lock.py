"""One process a run folder; a lock whose process died is nobody's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpsearch.errors import JobError
from mpsearch.runs.lock import find_holder, locked

HOLD = """
import sys, time
from pathlib import Path
from mpsearch.runs.lock import locked
with locked(Path(sys.argv[1])) as lock:
    lock.say("front", 3, 9, always=True)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_by_name_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        holder = find_holder(tmp_path)
        assert holder is not None
        assert (holder.pid, holder.stage, holder.done, holder.total) == (other.pid, "front", 3, 9)
        with pytest.raises(JobError, match=f"is being worked on by process {other.pid} on "):
            locked(tmp_path).__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (tmp_path / "lock").exists()  # stale, and known to be
    assert find_holder(tmp_path) is None
    with locked(tmp_path):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    ready, go = os.pipe(), os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.read(go[0], 1)
            os._exit(0)
    with locked(tmp_path):
        os.write(go[1], b"x")
    os.waitpid(child, 0)
    for pair in (ready, go):
        for handle in pair:
            os.close(handle)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="must be writable, but"):
        locked(tmp_path / "file" / "run").__enter__()
