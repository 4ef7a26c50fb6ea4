"""Workers on a Ray cluster: the same measurements as tasks of actors; model and data are put once a node.

An actor comes to the run's simulator by itself, from the job's files (:mod:`mpsearch.workers.recipe`), and one that comes to
another is refused. Ray runs whatever it is sent: a cluster is for networks and people that are trusted.
"""

import os
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.errors import JobError, MissingExtraError, MpsearchError
from mpsearch.jobs.means import Crew
from mpsearch.problem.tables import Progress
from mpsearch.runs.job import Job
from mpsearch.runs.sources import Sources
from mpsearch.simulate.loss_store import Ahead, Assignment
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats
from mpsearch.workers.recipe import Recipe, measure_one, recipe_of
from mpsearch.workers.tasks import Task, Tasks

ANSWER_S = 8.0
"""Seconds that a cluster has to answer in."""

_LOOK_S = 1.0
_KNOCK_S = 4.0
_BLOCK_BYTES = 64 << 20  # files are put into the object store in pieces of this size


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a job as they lie in the cluster's object store, once a node.

    Attributes:
        parts: (key, file name) to references to the pieces of the file.
    """

    parts: Mapping[tuple[str, str], tuple[Any, ...]]


def ray_crew(
    job: Job, sources: Sources, address: str, count: int | None, said: Callable[[str], None]
) -> Crew:
    """Return what starts workers on a Ray cluster for a run, and ends them.

    Args:
        job: The job of the run.
        sources: Where its files lie on this machine.
        address: ``host:port``, ``ray://host:port``, or ``auto`` for the cluster of this machine.
        count: Actors, one thread each unless the job says otherwise; None: one a CPU of the cluster.
        said: Hears of actors and nodes that were lost.

    Raises:
        MissingExtraError: Ray is not installed.
        JobError: The cluster does not answer.
    """
    ray = join(address)

    @contextmanager
    def crew(simulator: Simulator, told: Progress) -> Iterator[Ahead]:
        recipe = recipe_of(simulator, job, sources)
        actors = count or max(1, int(ray.cluster_resources().get("CPU", 1)) // recipe.threads)
        workers = RayWorkers(ray, recipe, actors, told, said)
        try:
            yield workers
        finally:
            workers.close()

    return crew


def join(address: str) -> Any:
    """Return Ray, joined to the cluster at ``address``.

    Raises:
        MissingExtraError: Ray is not installed.
        JobError: The cluster does not answer within :data:`ANSWER_S`.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("--ray needs Ray; pip install 'mpsearch[ray]'") from None
    if ray.is_initialized():
        return ray
    failed: list[BaseException] = []
    if why := _closed(address):
        raise _unanswered(address, why)

    def begin() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(address=address, log_to_driver=False, logging_level="error")
        except BaseException as error:  # whatever it is, it is said in one line
            failed.append(error)

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if thread.is_alive() or failed:
        why = str(failed[0]).splitlines()[0] if failed and str(failed[0]) else "no answer"
        raise _unanswered(address, why)
    return ray


def _closed(address: str) -> str:
    """Why nothing listens at an address, "" where something does or nobody can say."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _unanswered(address: str, why: str) -> JobError:
    return JobError(
        f"ray: the cluster at {address!r} does not answer ({why}); start one with `ray start --head`, or give "
        "its address"
    )


class RayWorkers:
    """Actors of a Ray cluster; see :func:`ray_crew`."""

    __slots__ = ("_actor", "_actors", "_blobs", "_ray", "_recipe", "_said", "_told")

    def __init__(
        self, ray: Any, recipe: Recipe, count: int, told: Progress, said: Callable[[str], None]
    ) -> None:
        """Put the files of the job into the cluster and begin ``count`` actors.

        Args:
            ray: Ray, joined.
            recipe: How an actor comes to the simulator.
            count: How many.
            told: Hears of progress.
            said: Hears of actors that were lost.
        """
        self._ray, self._told, self._said = ray, told, said
        self._blobs = _put_files(ray, recipe.sources)
        self._recipe = recipe
        self._actor = ray.remote(num_cpus=recipe.threads, max_restarts=0)(_Actor)
        self._actors = [self._start() for _ in range(count)]

    def measure(
        self, wanted: Sequence[Task], kept: Callable[[Assignment, int, Floats], None]
    ) -> Mapping[Task, str]:
        """Measure ``wanted`` and hand each to ``kept``; return what actors died of, to how."""
        ray, tasks = self._ray, Tasks(len(self._actors))
        tasks.add(wanted)
        pending: dict[Any, int] = {}
        done = 0
        self._told(0, len(wanted), "")
        while tasks.left:
            for number, actor in enumerate(self._actors):
                if not tasks.busy(number) and (task := tasks.next(number)) is not None:
                    pending[actor.measure.remote(*task)] = number
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_S)
            for reference in ready:
                number = pending.pop(reference)
                done += self._take(tasks, reference, number, kept)
                self._told(min(done, len(wanted) - 1), len(wanted), "")
        for reference in pending:  # doubled tasks: the other was first
            with suppress(Exception):
                ray.cancel(reference)
        self._told(len(wanted), len(wanted), f"{len(wanted)} measured")
        return tasks.lost

    def close(self) -> None:
        """End all actors; the cluster stays."""
        for actor in self._actors:
            with suppress(Exception):
                self._ray.kill(actor)

    def _take(
        self,
        tasks: Tasks,
        reference: Any,
        number: int,
        kept: Callable[[Assignment, int, Floats], None],
    ) -> bool:
        """Take what an actor gave, or that it was lost; return whether a task is through."""
        from ray.exceptions import RayError, RayTaskError

        try:
            found = self._ray.get(reference)
        except RayTaskError as error:
            raise JobError(f"ray: a worker failed: {_cause(error)}") from None
        except RayError as error:
            why = str(error).strip().splitlines()[0][:120]
            self._lose(tasks, number, f"was lost ({type(error).__name__}: {why})")
            return False
        if isinstance(found, str):
            self._lose(tasks, number, found)
            return False
        (assignment, batch), first = tasks.finish(number)
        if first and found is not None:
            kept(assignment, batch, np.frombuffer(found, np.float64))
        return first

    def _lose(self, tasks: Tasks, number: int, why: str) -> None:
        tasks.die(number, why)
        self._said(f"actor {number} {why}, its task is given back")
        with suppress(Exception):
            self._ray.kill(self._actors[number])
        self._actors[number] = self._start()

    def _start(self) -> Any:
        return self._actor.remote(self._recipe, self._blobs.parts)


class _Actor:
    """Measures, once it has come to the run's simulator."""

    def __init__(self, recipe: Recipe, parts: Mapping[tuple[str, str], tuple[Any, ...]]) -> None:
        import ray

        folder = Path(tempfile.mkdtemp(prefix="mpsearch-"))
        places: dict[str, Path] = {}
        for (key, name), references in parts.items():
            path = folder / key / name
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                for reference in references:
                    file.write(ray.get(reference))
            places.setdefault(key, path)
        self._simulator = replace(recipe, sources=_moved(recipe.sources, places)).build()

    def measure(self, assignment: Assignment, batch: int) -> bytes | str | None:
        """Return the losses of a task as bytes; see :func:`mpsearch.workers.recipe.measure_one`."""
        return measure_one(self._simulator, assignment, batch)


def _put_files(ray: Any, sources: Sources) -> _Files:
    """Put the files of a job into the object store."""
    wanted: list[tuple[str, Path]] = [("model", sources.model)]
    wanted += [("model", p) for p in sources.model.parent.glob(f"{sources.model.name}*data*")]
    if sources.data is not None:
        folder = sources.data.is_dir()
        wanted += [
            ("data", p) for p in (sorted(sources.data.glob("*.npz")) if folder else [sources.data])
        ]
    wanted += [
        (key, Path(text))
        for key, text in (("device", sources.device), ("space", sources.space))
        if text.endswith(".toml") and Path(text).is_file()
    ]
    return _Files({(key, path.name): _put(ray, path) for key, path in wanted})


def _put(ray: Any, path: Path) -> tuple[Any, ...]:
    found = []
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found.append(ray.put(block))
    return tuple(found)


def _moved(sources: Sources, places: Mapping[str, Path]) -> Sources:
    """``sources`` as they lie on the node."""
    data = sources.data
    if data is not None:
        data = places["data"].parent if data.is_dir() or data.suffix != ".npz" else places["data"]
    return Sources(
        model=places["model"],
        data=data,
        evaluation=None,
        device=str(places.get("device", sources.device)),
        space=str(places.get("space", sources.space)),
    )


def _cause(error: BaseException) -> str:
    """What failed on a node, in one line; a package that is missing there is named."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ImportError) and not isinstance(cause, MpsearchError):
        return f"the node lacks a package: {cause}; install mpsearch there, of the same version"
    return " ".join(str(cause).split())[:400]
