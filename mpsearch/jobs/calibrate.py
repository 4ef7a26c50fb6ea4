"""Calibration: a job's simulator, and the samples that a plan was calibrated on.

Ranges and recovered weights may come from fewer samples than losses: from those that a run or a
store was begun with. So samples that are added leave what was measured as it is.
"""

from dataclasses import replace
from pathlib import Path

from mpsearch.data.batches import DEFAULT_BATCH_SIZE, Batches, read_batches
from mpsearch.errors import DataError, MpsearchError
from mpsearch.jobs.prepare import Prepared
from mpsearch.jobs.stage_inputs import Watch, unwatched
from mpsearch.plan.changes import with_weights
from mpsearch.plan.files import read_plan
from mpsearch.plan.plan import Plan
from mpsearch.plan.weights import check_file
from mpsearch.simulate.simulator import Simulator

_DIGEST, _SAMPLES = "calibration", "calibration_samples"


def calibrated_simulator(prepared: Prepared, first: Batches, watch: Watch = unwatched) -> Simulator:
    """Return the simulator of a job on its data, calibrated to the ``first`` of them.

    Raises:
        UnsupportedOperatorError: The model uses operators that cannot be executed.
        NumericsError: A tensor is not finite, or the base format overflows.
    """
    told, job = watch("calibrate"), prepared.job
    told(0, 1, f"{len(first)} samples")
    simulator = Simulator(
        prepared.graph,
        prepared.space,
        first,
        loss=job.loss or None,
        seed=job.seed,
        max_memory=job.memory_bytes,
    )
    if prepared.batches is not None and len(first) < len(prepared.batches):
        simulator = simulator.on_data(prepared.batches)
    told(1, 1, f"{len(first)} samples")
    return simulator


def note_calibration(plan: Plan, batches: Batches) -> Plan:
    """Return ``plan`` with the number and the digest of the samples that it was calibrated on."""
    noted = {_DIGEST: batches.digest, _SAMPLES: str(len(batches))}
    return replace(plan, fingerprint={**plan.fingerprint, **noted})


def keep_weights(plan: Plan, path: Path) -> Plan | None:
    """Return ``plan`` with the weights of the plan at ``path``, None where that brings none that are the same.

    They are where model, decisions, schemes and all that computed them are.
    """
    try:
        earlier = read_plan(path)
        if earlier.weights is None or _origin(earlier) != _origin(plan):
            return None
        check_file(earlier.weights)
    except MpsearchError:
        return None
    return with_weights(plan, earlier.weights)


def _origin(plan: Plan) -> tuple[object, ...]:
    """All that the weights that a plan changes depend on."""
    digests = plan.structure_digest, plan.weights_digest
    changed = plan.recovery, plan.transforms
    return *digests, plan.schemes, plan.decisions, plan.fingerprint, *changed


def read_data(path: Path, plan: Plan) -> Batches:
    """Read data to export or verify ``plan`` with.

    Where it recovers pruned weights and does not bring them these are the samples that it was calibrated on, in the same batches:
    the first of the file. Others would give other weights.

    Raises:
        DataError: The file cannot be read, or does not begin with those samples.
    """
    count = plan.fingerprint.get(_SAMPLES, "")
    if "recovery" not in plan.requires or not count.isdigit():
        return read_batches(path)
    rows = plan.fingerprint.get("batch_size", "")
    batches = read_batches(
        path, limit=int(count), batch_size=int(rows) if rows.isdigit() else DEFAULT_BATCH_SIZE
    )
    if batches.digest != plan.fingerprint.get(_DIGEST):
        raise DataError(
            f"{path.name}: must begin with the {count} samples that the plan was calibrated on, because "
            f"its pruned weights are recovered on them; got others"
        )
    return batches
