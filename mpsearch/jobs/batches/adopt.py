"""A batch's run folder whose job has changed since: it goes on as the new job's."""

from pathlib import Path

from mpsearch.errors import JobError
from mpsearch.jobs.prepare import Prepared
from mpsearch.plan.files import remove_plan
from mpsearch.runs.asked import FILE, was_asked
from mpsearch.runs.job_file import read_job, write_job
from mpsearch.runs.run_folder import check_run


def adopt(path: Path, prepared: Prepared) -> bool:
    """Make the run in ``path`` that of ``prepared`` where a batch made it for another job; return whether it was.

    Losses and stages whose inputs are the same stay; plans, results and the report go.
    """
    try:
        check_run(path, prepared.job, prepared.batches)
    except JobError:
        if not was_asked(path):
            raise
    else:
        return False
    read_job(path / "job.toml")  # what cannot be read is not thrown away
    for plan in (path / "plans").glob("*.json"):
        remove_plan(plan)
    for name in ("run.json", "report.html", FILE):
        (path / name).unlink(missing_ok=True)
    write_job(prepared.job, path / "job.toml")
    return True
