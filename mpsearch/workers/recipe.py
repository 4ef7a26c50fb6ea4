"""How a process that shares nothing with the run's own comes to the same simulator: from the job's files, calibrated anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mpsearch.artifacts import digest_json
from mpsearch.errors import JobError, NumericsError
from mpsearch.jobs.calibrate import calibrated_simulator
from mpsearch.jobs.prepare import prepare
from mpsearch.runs.job import Job
from mpsearch.runs.sources import Sources
from mpsearch.simulate.loss_store import Assignment
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a simulator is made of, small enough to be sent.

    Attributes:
        job: The job.
        sources: Where its files lie.
        calibrated: Samples that ranges and recovered weights come from.
        threads: Threads of one worker.
        signature: What the simulator must be equal to (:func:`sign`).
    """

    job: Job
    sources: Sources
    calibrated: int
    threads: int
    signature: str

    def build(self) -> Simulator:
        """Return the simulator.

        Raises:
            JobError: It is another than the run's own: losses of it must not be mixed with the others.
        """
        torch.set_num_threads(self.threads)
        prepared = prepare(self.job, self.sources)
        assert prepared.batches is not None  # a run without data has no workers
        simulator = calibrated_simulator(prepared, prepared.batches.take(self.calibrated))
        found = sign(simulator)
        if found != self.signature:
            raise JobError(
                "a worker must compute what the run's own process does, but it comes to other ranges or is another "
                f"kind of machine ({describe(simulator)}); its losses are not mixed with the others"
            )
        return simulator.keep_losses(Forgetful())


def recipe_of(simulator: Simulator, job: Job, sources: Sources) -> Recipe:
    """Return how another process comes to ``simulator``, that of ``job``."""
    first = simulator.calibrated.batches
    count = len(simulator.batches if first is None else first)
    alone = job.model_copy(update={"eval": "", "quality": "", "max_drop": None})
    files = replace(sources, evaluation=None)
    return Recipe(alone, files, count, torch.get_num_threads(), sign(simulator))


def sign(simulator: Simulator) -> str:
    """Return a digest of all that losses of ``simulator`` depend on: ranges, schemes, and what computes them."""
    ranges = sorted(
        (f"{name} {spec}", repr(found)) for (name, spec), found in simulator.ranges.items()
    )
    fingerprint = {key: str(value) for key, value in simulator.fingerprint.items()}
    schemes = [repr(scheme) for scheme in simulator.space.schemes]
    allowed = simulator.allowed.astype(int).tolist()
    return digest_json([ranges, fingerprint, schemes, allowed, simulator.batches.digest])


def describe(simulator: Simulator) -> str:
    """Return what computes the losses of ``simulator``, in words."""
    return ", ".join(f"{key} {value}" for key, value in simulator.fingerprint.items())


class Forgetful:
    """Keeps no losses: the run's own store does."""

    def get(self, assignment: Assignment, batch: int | None) -> Floats | None:
        """Return None."""

    def put(self, assignment: Assignment, batch: int | None, losses: Floats) -> Floats:
        """Return ``losses``."""
        return losses

    def branch(self, name: str) -> "Forgetful":
        """Return this."""
        return self

    def announce(self, assignments: Sequence[Assignment], batches: Sequence[int]) -> None:
        """Do nothing."""


def measure_one(simulator: Simulator, assignment: Assignment, batch: int) -> bytes | str | None:
    """Return the losses of a task as float64 bytes, None where it has none, or that memory ran out."""
    try:
        losses = simulator.losses(np.array(assignment, np.int64), [batch])
    except NumericsError:
        return None  # whoever asks for it hears of it
    except MemoryError:
        return "ran out of memory"
    except RuntimeError as error:
        if "allocate" in str(error):
            return "ran out of memory"
        raise
    return np.ascontiguousarray(losses, np.float64).tobytes()
