"""Whole jobs, each in a process of its own: one queue, what fails hinders no other."""

import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from mpsearch.errors import MpsearchError
from mpsearch.jobs.batches.planned import Outcome, Planned
from mpsearch.runs.log import write_event
from mpsearch.workers.crews import Wanted, make_means

_ATTEMPTS = 2
_LOOK_S = 0.5
_SAID_EVERY_S = 0.25
_GRACE_S = 60.0  # that jobs have to write their fronts once they are told to end

Heard = Callable[[str, str, int, int], None]
"""Hears of progress: run, stage, steps done, of how many."""


@dataclass(slots=True)
class _Running:
    run: Planned
    process: Any
    pipe: Connection
    started: float


def run_jobs(
    runs: Sequence[Planned],
    wanted: Wanted,
    *,
    at_once: int,
    heard: Heard,
    ended: Callable[[Outcome], None],
) -> list[Outcome]:
    """Run ``runs``, so many at once, and return what became of each, in their order.

    A job whose process is killed is begun once more; it goes on where it was. Ctrl-C ends all, each with a usable front.

    Args:
        runs: What to run.
        wanted: What each may use.
        at_once: How many run at the same time.
        heard: Hears of progress.
        ended: Hears of each outcome as it comes.
    """
    context: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["mpsearch.jobs.run"])
    waiting = deque(runs)
    found: dict[str, Outcome] = {}
    attempts: dict[str, int] = {}
    running: list[_Running] = []

    def finish(outcome: Outcome) -> None:
        found[outcome.name] = outcome
        ended(outcome)

    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                run = waiting.popleft()
                attempts[run.name] = attempts.get(run.name, 0) + 1
                running.append(_start(context, run, wanted))
            for one in _ready(running):
                outcome = _hear(one, heard)
                if outcome is None:
                    continue
                running.remove(one)
                one.process.join()
                if outcome.state == "killed" and attempts[one.run.name] < _ATTEMPTS:
                    waiting.append(one.run)
                    continue
                again = " twice" if outcome.state == "killed" else ""
                state = "failed" if outcome.state == "killed" else outcome.state
                finish(replace(outcome, state=state, said=outcome.said + again))
    except KeyboardInterrupt:
        for one in running:
            one.process.terminate()
        for outcome in _await_all(running, heard):
            finish(outcome)
        raise
    return [found[run.name] for run in runs]


def _start(context: Any, run: Planned, wanted: Wanted) -> _Running:
    near, far = context.Pipe()
    process = context.Process(target=_work, args=(run, wanted, far), daemon=False)
    process.start()
    far.close()
    return _Running(run, process, near, time.monotonic())


def _ready(running: Sequence[_Running]) -> list[_Running]:
    pipes = wait([one.pipe for one in running], timeout=_LOOK_S)
    return [one for one in running if one.pipe in pipes]


def _hear(one: _Running, heard: Heard) -> Outcome | None:
    """Take one message of a job; return its outcome once that is known."""
    try:
        said = one.pipe.recv()
    except (EOFError, OSError):
        one.process.join(timeout=5.0)
        code = one.process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        text = f"its process was ended by {name}{hint}"
        return Outcome(one.run.name, "killed", text, time.monotonic() - one.started)
    if said[0] == "progress":
        heard(one.run.name, *said[1:])
        return None
    state, text = said
    return Outcome(one.run.name, state, text, time.monotonic() - one.started)


def _await_all(running: list[_Running], heard: Heard) -> list[Outcome]:
    """What the jobs end with that were told to; those that do not are killed."""
    outcomes = []
    end = time.monotonic() + _GRACE_S
    while running and time.monotonic() < end:
        for one in _ready(running):
            outcome = _hear(one, heard)
            if outcome is not None:
                running.remove(one)
                outcomes.append(replace(outcome, state="interrupted"))
    for one in running:
        one.process.kill()
        outcomes.append(Outcome(one.run.name, "interrupted", "had to be killed"))
    return outcomes


def _work(run: Planned, wanted: Wanted, pipe: Connection) -> None:
    """Run one job and say through ``pipe`` what became of it."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the queue's own process ends its jobs
    try:
        said = _run(run, wanted, pipe)
    except MpsearchError as error:
        said = ("failed", " ".join(str(error).split()))
    except KeyboardInterrupt as stopped:
        said = ("interrupted", str(stopped))
    except OSError as error:
        said = ("failed", error.strerror or str(error))
    except Exception as error:  # a fault of ours, or of a user's function: the others go on
        trace = traceback.format_exc()
        write_event(run.folder, "failed", said=f"{type(error).__name__}: {error}", trace=trace)
        said = ("failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
    try:
        pipe.send(said)
    except OSError:
        return


def _run(run: Planned, wanted: Wanted, pipe: Connection) -> tuple[str, str]:
    from mpsearch.jobs.batches.adopt import adopt
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.run import run_job
    from mpsearch.runs.asked import note_asked

    def watch(stage: str) -> Callable[[int, int, str], None]:
        last = 0.0

        def told(done: int, total: int, text: str) -> None:
            nonlocal last
            del text
            now = time.monotonic()
            if done in (0, total) or now - last > _SAID_EVERY_S:
                last = now
                try:
                    pipe.send(("progress", stage, done, total))
                except OSError:  # the queue is gone: end as if it had said so
                    raise KeyboardInterrupt from None

        return told

    prepared = prepare(run.job, run.sources)
    adopt(run.folder, prepared)
    means = make_means(run.job, run.sources, run.folder, wanted)
    run_job(prepared, run.folder, watch=watch, means=means)
    note_asked(run.folder, run.job, run.sources)
    return "finished", ""


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
