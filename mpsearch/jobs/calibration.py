"""The samples that a plan was calibrated on: noted in it, and found again where its weights are rebuilt."""

from dataclasses import replace
from pathlib import Path

from mpsearch.data import DEFAULT_BATCH_SIZE, Batches, read_batches
from mpsearch.errors import DataError
from mpsearch.plan import Plan

_DIGEST, _SAMPLES = "calibration", "calibration_samples"


def note_calibration(plan: Plan, batches: Batches) -> Plan:
    """Return ``plan`` with the number and the digest of the samples that it was calibrated on."""
    noted = {_DIGEST: batches.digest, _SAMPLES: str(len(batches))}
    return replace(plan, fingerprint={**plan.fingerprint, **noted})


def read_data(path: Path, plan: Plan) -> Batches:
    """Read data to export or verify ``plan`` with.

    Where it recovers pruned weights these are the samples that it was calibrated on, in the same batches:
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
