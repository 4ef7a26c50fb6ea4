"""A run folder at work: the store that it shares, its log, and who hears how far it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpsearch.errors import MpsearchError
from mpsearch.jobs.means import Means
from mpsearch.jobs.stage_inputs import Watch
from mpsearch.problem.tables import Progress
from mpsearch.runs.lock import Lock
from mpsearch.runs.log import write_event
from mpsearch.runs.store.shared import SharedStore


@contextmanager
def opened_shared(means: Means) -> Iterator[SharedStore | None]:
    """Open the store that the run shares with others, None where there is none.

    Raises:
        JobError: It is none, damaged, of a newer version, or does not answer.
    """
    if not means.store:
        yield None
        return
    with SharedStore(means.store, durable=means.durable) as shared:
        yield shared


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write into the log of a run how it ends."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        write_event(path, "interrupted", said=str(stopped))
        raise
    except BaseException as error:
        kind = "" if isinstance(error, MpsearchError) else f"{type(error).__name__}: "
        write_event(path, "failed", said=f"{kind}{error}")
        raise
    write_event(path, "end")


def heard(watch: Watch, lock: Lock | None) -> Watch:
    """Return ``watch``, with whoever looks at the lock told as well."""
    if lock is None:
        return watch

    def both(stage: str) -> Progress:
        told = watch(stage)

        def say(done: int, total: int, text: str) -> None:
            lock.say(stage, done, total, always=done in (0, total))
            told(done, total, text)

        return say

    return both
