"""How many evaluations the runs of a batch take, and about how long: each model is timed once."""

from dataclasses import dataclass

from mpsearch.artifacts import digest_json
from mpsearch.errors import MpsearchError
from mpsearch.jobs.batches.planned import Batch, Outcome
from mpsearch.jobs.forecast import Timed, count_evaluations, time_one
from mpsearch.jobs.prepare import Prepared, prepare

_READ = (
    "digests", "schemes", "keep", "base", "recovery", "target", "ranges", "loss", "batch_size", "samples",
    "threads", "shapes", "batch_axes",
)  # fmt: skip
"""Keys of a job that decide what an evaluation is and takes."""


@dataclass(frozen=True, slots=True)
class BatchForecast:
    """What a batch will take, one run after the other.

    Attributes:
        runs: Runs in all.
        finished: Those of them that are done.
        evaluations: Evaluations of those that are not, at most: what they share is measured once.
        seconds: About how long these are.
        failed: Runs that cannot start.
    """

    runs: int
    finished: int
    evaluations: int
    seconds: float
    failed: tuple[Outcome, ...]


def forecast_batch(batch: Batch) -> BatchForecast:
    """Return what ``batch`` will take; writes nothing."""
    known: dict[str, Timed] = {}
    failed = list(batch.failed)
    evaluations, seconds = 0, 0.0
    for run in batch.runs:
        if run.finished:
            continue
        try:
            prepared = prepare(run.job, run.sources)
            if prepared.batches is None:
                continue
            key = _key(prepared)
            if key not in known:
                known[key] = time_one(prepared)
            found = count_evaluations(prepared, known[key])
        except MpsearchError as error:
            failed.append(Outcome(run.name, "failed", str(error)))
            continue
        evaluations += found.evaluations + found.held_out
        seconds += found.seconds
    finished = sum(run.finished for run in batch.runs)
    return BatchForecast(
        len(batch.runs) + len(batch.failed), finished, evaluations, seconds, tuple(failed)
    )


def _key(prepared: Prepared) -> str:
    values = prepared.job.model_dump(mode="json", include=set(_READ))
    values["digests"].pop("device", None)
    return digest_json(values)
