"""Processes of this machine that measure for a run.

They are forked from the process that calibrated: weights and data are mapped once and shared, nothing is
computed again. Each loss is a function of assignment, batch and thread count alone, so their number changes no result.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from mpsearch.errors import JobError, MpsearchError
from mpsearch.jobs.means import Crew
from mpsearch.problem.tables import Progress
from mpsearch.runs.job import Job
from mpsearch.runs.sources import Sources
from mpsearch.simulate.loss_store import Ahead, Assignment
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats
from mpsearch.workers.recipe import Forgetful, Recipe, measure_one, recipe_of
from mpsearch.workers.tasks import Task, Tasks

_LOOK_S = 1.0  # how often lagging tasks are looked for
_FORK_FAILED_S = 0.5


@dataclass(slots=True)
class _Worker:
    process: Any
    pipe: Connection


class LocalWorkers:
    """Forked processes; see :func:`local_crew`."""

    __slots__ = ("_context", "_made", "_said", "_told", "_workers")

    def __init__(
        self, made: Simulator | Recipe, count: int, told: Progress, said: Callable[[str], None]
    ) -> None:
        """Start ``count`` workers.

        Args:
            made: What they measure with: forked with it, or told how to come to it.
            count: How many.
            told: Hears of progress.
            said: Hears of workers that died.
        """
        forked = isinstance(made, Simulator)
        self._made = made.keep_losses(Forgetful()) if isinstance(made, Simulator) else made
        self._context: Any = get_context("fork" if forked else "spawn")
        self._told, self._said = told, said
        self._workers = [self._start() for _ in range(count)]

    def measure(
        self,
        wanted: Sequence[Task],
        kept: Callable[[Assignment, int, Floats], None],
    ) -> Mapping[Task, str]:
        """Measure ``wanted`` and hand each to ``kept``; return what workers died of, to how."""
        tasks = Tasks(len(self._workers))
        tasks.add(wanted)
        done = 0
        self._told(0, len(wanted), "")
        for number in range(len(self._workers)):
            self._give(tasks, number)
        while tasks.left:
            pipes = {worker.pipe: number for number, worker in enumerate(self._workers)}
            ready = wait(list(pipes), timeout=_LOOK_S)
            for pipe in ready:
                number = pipes[pipe]  # type: ignore[index]  # only pipes were waited for
                if self._hear(tasks, number, kept):
                    done += 1
                    self._told(min(done, len(wanted) - 1), len(wanted), "")
                self._give(tasks, number)
            if not ready:
                for number in range(len(self._workers)):
                    if not tasks.busy(number):
                        self._give(tasks, number)
        self._settle(tasks)
        self._told(len(wanted), len(wanted), f"{len(wanted)} measured")
        return tasks.lost

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            with suppress(OSError):
                worker.pipe.send(None)
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(timeout=2.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _start(self) -> _Worker:
        near, far = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(self._made, far, os.getpid()), daemon=True
        )
        try:
            with warnings.catch_warnings():  # threads of torch's wait, and the child begins none
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
        except OSError as error:
            raise JobError(f"a worker could not be started: {error.strerror}") from None
        far.close()
        return _Worker(process, near)

    def _give(self, tasks: Tasks, number: int) -> None:
        if tasks.busy(number):
            return
        task = tasks.next(number)
        if task is not None:
            with suppress(OSError):  # it died in between, which is heard next
                self._workers[number].pipe.send(task)

    def _hear(
        self, tasks: Tasks, number: int, kept: Callable[[Assignment, int, Floats], None]
    ) -> bool:
        """Take what a worker sends, or that it died; return whether a task is through."""
        worker = self._workers[number]
        try:
            found = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=5.0)
            self._replace(tasks, number, _died(worker.process.exitcode))
            return False
        if isinstance(found, MpsearchError):
            raise found
        if isinstance(found, str):  # out of memory: it said so before it went
            self._replace(tasks, number, found)
            return False
        (assignment, batch), first = tasks.finish(number)
        if first and found is not None:
            kept(assignment, batch, np.frombuffer(found, np.float64))
        return first

    def _replace(self, tasks: Tasks, number: int, why: str) -> None:
        task = tasks.die(number, why)
        self._said(f"worker {number} {why}" + ("" if task is None else ", its task is given back"))
        old = self._workers[number]
        old.pipe.close()
        old.process.join(timeout=_FORK_FAILED_S)
        if old.process.is_alive():
            old.process.kill()
        self._workers[number] = self._start()

    def _settle(self, tasks: Tasks) -> None:
        """End the workers that are still at what others measured meanwhile, and start new ones."""
        for number, worker in enumerate(self._workers):
            if tasks.busy(number):
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()
                self._workers[number] = self._start()


def local_crew(job: Job, sources: Sources, count: int, said: Callable[[str], None]) -> Crew:
    """Return what starts ``count`` workers of this machine for a run, and ends them.

    Args:
        job: The job of the run.
        sources: Where its files lie.
        count: How many; one measures in the run's own process.
        said: Hears of workers that died.

    Raises:
        JobError: There must be at least one.
    """
    if count < 1:
        raise JobError(f"workers must be at least 1, got {count}")

    @contextmanager
    def crew(simulator: Simulator, told: Progress) -> Iterator[Ahead]:
        if count == 1:
            yield Nobody()
            return
        made = simulator if can_fork(simulator) else recipe_of(simulator, job, sources)
        workers = LocalWorkers(made, count, told, said)
        try:
            yield workers
        finally:
            workers.close()

    return crew


class Nobody:
    """No workers: all is measured when it is asked for."""

    def measure(
        self, wanted: Sequence[Task], kept: Callable[[Assignment, int, Floats], None]
    ) -> Mapping[Task, str]:
        """Measure nothing."""
        del wanted, kept
        return {}


def can_fork(simulator: Simulator) -> bool:
    """Return whether processes can be forked that use ``simulator``: on Linux, without a GPU, on one thread.

    Threads of OpenMP do not outlive a fork: a second one would be waited for in vain.
    """
    plain = simulator.program.device.type == "cpu" and torch.get_num_threads() == 1
    return plain and sys.platform == "linux" and "fork" in get_all_start_methods()


def _work(made: Simulator | Recipe, pipe: Connection, parent: int) -> None:
    """Measure what comes through ``pipe`` until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's own process ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        simulator = made.build() if isinstance(made, Recipe) else made
    except MpsearchError as error:
        pipe.send(error)
        return
    if isinstance(made, Simulator):
        torch.set_num_threads(1)
    with suppress(EOFError, OSError):
        while os.getppid() == parent:
            if not pipe.poll(_LOOK_S):
                continue
            task = pipe.recv()
            if task is None:
                break
            pipe.send(measure_one(simulator, *task))
    os._exit(0)  # the files of the parent are its own to close


def _died(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"was ended by {name}{hint}"
    return f"ended with exit code {code}"
