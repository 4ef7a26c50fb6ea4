"""What a run may use beside its folder: none of it is part of its result."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mpsearch.errors import JobError
from mpsearch.jobs.prepare import Prepared
from mpsearch.problem.tables import Progress
from mpsearch.simulate.loss_store import Ahead
from mpsearch.simulate.simulator import Simulator

STAGES = ("graph", "costs", "sensitivity", "plain_front", "front", "self_test")
"""Stages that leave a file, in their order."""

Crew = Callable[[Simulator, Progress], AbstractContextManager[Ahead]]
"""Given the simulator of a run and what hears of progress, workers that measure for it."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a run may use.

    Attributes:
        store: Path or URL of a store that other runs share; "" is none.
        durable: Whether what is written to it also survives a loss of power.
        crew: Workers; None: the process measures by itself.
        redo: First stage that is computed again, whatever the folder holds; "" is none.
        wait: Wait for another process that works in the folder; else refuse.
    """

    store: str = ""
    durable: bool = False
    crew: Crew | None = None
    redo: str = ""
    wait: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are computed again.

        Raises:
            JobError: There is no such stage.
        """
        if not self.redo:
            return ()
        if self.redo not in STAGES:
            raise JobError(f"a stage must be one of {', '.join(STAGES)}; got {self.redo!r}")
        return STAGES[STAGES.index(self.redo) :]


ALONE = Means()
"""Nothing beside the folder."""


@contextmanager
def threads_of(prepared: Prepared, recorded: int, means: Means) -> Iterator[int]:
    """Run on the job's threads, else on those that the run was begun with, else on one where there are workers.

    Losses on other numbers of threads differ in their last bits, and are not mixed.

    Args:
        prepared: The job.
        recorded: Threads that the run was begun with; 0 where it is new.
        means: Says whether there are workers.
    """
    before = torch.get_num_threads()
    chosen = prepared.job.threads or recorded or (before if means.crew is None else 1)
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(before)


def describe_contexts(prepared: Prepared, simulator: Simulator) -> Mapping[str, Any]:
    """Return what a shared store says of losses of a run: which model, data and schemes, computed by what."""
    digests = prepared.job.digests
    return {
        "model": digests["model"],
        "weights": digests["weights"],
        "data": digests.get("data", ""),
        "file": prepared.job.model,
        "base": prepared.space.base,
        "loss": simulator.loss_kind,
        "groups": len(simulator.groups),
        "fingerprint": {key: str(value) for key, value in simulator.fingerprint.items()},
    }
