"""From what a user asks for to what a run may use: workers of this machine or a cluster, a shared store."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpsearch.runs.job import Job
from mpsearch.runs.log import write_event
from mpsearch.runs.sources import Sources

if TYPE_CHECKING:
    from mpsearch.jobs.means import Means


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asks for.

    Attributes:
        workers: Processes that measure; None measures in the run's own.
        ray: Address of a Ray cluster that measures instead; "" is none.
        store: Path or URL of a shared store; "" is none.
        durable: Whether that is written through to disk.
        redo: First stage that is computed again; "" is none.
        wait: Wait for another process that works in the run folder.
    """

    workers: int | None = None
    ray: str = ""
    store: str = ""
    durable: bool = False
    redo: str = ""
    wait: bool = False


def make_means(job: Job, sources: Sources, folder: Path, wanted: Wanted) -> "Means":
    """Return what the run of ``job`` in ``folder`` may use; its log says what became of workers.

    Raises:
        JobError: The cluster does not answer.
        MissingExtraError: Ray is not installed.
    """
    from mpsearch.jobs.means import Means

    crew = None

    def said(text: str) -> None:
        write_event(folder, "worker", said=text)

    if wanted.ray:
        from mpsearch.workers.ray_cluster import ray_crew

        crew = ray_crew(job, sources, wanted.ray, wanted.workers, said)
    elif wanted.workers is not None:
        from mpsearch.workers.local import local_crew

        crew = local_crew(job, sources, wanted.workers, said)
    return Means(wanted.store, wanted.durable, crew, wanted.redo, wanted.wait)
