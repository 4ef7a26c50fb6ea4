"""What the stages of a run share, and the digests of all that measured losses depend on."""

from collections.abc import Callable
from dataclasses import dataclass

from mpsearch.artifacts import digest_json
from mpsearch.data.batches import Batches
from mpsearch.jobs.prepare import Prepared
from mpsearch.problem.tables import Costs, Progress
from mpsearch.runs.run_folder import RunFolder
from mpsearch.runs.store.layered import LayeredStore
from mpsearch.simulate.simulator import Simulator

Watch = Callable[[str], Progress]
"""Given a stage's name, returns what that stage reports its progress to."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the stages after calibration share.

    Attributes:
        prepared: The job and what it names.
        folder: The run folder.
        simulator: The model on the calibration data, its losses read through the store.
        calibration: The samples that ranges and recovered weights come from, the first of the data.
        store: What was measured.
        context: What the store's rows of this run are kept under.
        costs: Costs on the device.
        watch: Told of the progress of each stage.
    """

    prepared: Prepared
    folder: RunFolder
    simulator: Simulator
    calibration: Batches
    store: LayeredStore
    context: str
    costs: Costs
    watch: Watch


def unwatched(stage: str) -> Progress:
    """Return a progress callback that does nothing."""
    del stage
    return lambda done, total, text: None


def evaluation_context(
    prepared: Prepared, simulator: Simulator, calibration: Batches, data: str = "data"
) -> str:
    """Return the digest of all that losses on a job's data depend on beside the assignment.

    Args:
        prepared: The job and what it names.
        simulator: The simulator on the data.
        calibration: The samples that it was calibrated on.
        data: ``data`` or ``eval``: which of the job's data losses are measured on.
    """
    common = _context(prepared, simulator, calibration)
    return digest_json(common | {"on": data, "data": prepared.job.digests[data]})


def batch_contexts(
    prepared: Prepared, simulator: Simulator, calibration: Batches, *, any_space: bool = False
) -> tuple[str, ...]:
    """Return, for each batch of the data, the digest of all that its losses depend on.

    A batch's losses do not depend on the other batches, but on what the simulator was calibrated to.

    Args:
        prepared: The job and what it names.
        simulator: The simulator on the data.
        calibration: The samples that it was calibrated on.
        any_space: Leave the space's schemes out: for assignments that name their schemes by themselves.
    """
    data, common = simulator.batches, _context(prepared, simulator, calibration)
    if any_space:
        del common["schemes"]
    return tuple(
        digest_json(common | {"batch": data.rows(b * data.batch_size, data.batch_size).digest})
        for b in range(simulator.n_batches)
    )


def _context(prepared: Prepared, simulator: Simulator, calibration: Batches) -> dict[str, object]:
    """What any loss depends on beside the assignment and the samples."""
    job, space = prepared.job, prepared.space
    return {
        "model": job.digests["model"],
        "weights": job.digests["weights"],
        "calibration": calibration.digest,
        "schemes": [repr(scheme) for scheme in space.schemes],
        "base": space.base,
        "groups": [group.name for group in prepared.graph.groups],
        "loss": [simulator.loss_kind, job.loss],
        "fingerprint": {key: str(value) for key, value in simulator.fingerprint.items()},
    }
