"""``mpsearch batch``: many jobs, one queue, one table of what became of them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.means import Durable, Ray, Store, Workers
from mpsearch.cli.options import TrustCode
from mpsearch.cli.printing.tables import print_table

if TYPE_CHECKING:
    from mpsearch.jobs.batches.planned import Outcome, Planned

_STORE = "store.sqlite"  # within the folder of the runs, where no other is given


@command
def batch(
    jobs: Annotated[
        list[Path],
        typer.Argument(metavar="JOB.toml…", help="Job files, each with or without a [sweep]."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder that holds the run folders.")
    ] = Path("runs"),
    workers: Workers = None,
    ray: Ray = None,
    store: Store = None,
    durable: Durable = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Run many jobs, some at once; what fails hinders no other, and what is finished is not run again.

    A sweep is one run for each combination of its lists. Runs share what they measure.
    """
    from mpsearch.jobs.batches.planned import Outcome, plan_batch
    from mpsearch.workers.crews import Wanted

    planned = plan_batch(jobs, out, trust_code=trust_code)
    for outcome in planned.failed:
        print(f"failed: {outcome.name}: {outcome.said}", file=sys.stderr)
    due = [run for run in planned.runs if not run.finished]
    done = [Outcome(run.name, "unchanged") for run in planned.runs if run.finished]
    if due:
        out.mkdir(parents=True, exist_ok=True)
        at_once = min(workers or 1, len(due))
        inner = None if workers is None else max(1, workers // at_once)
        wanted = Wanted(inner, ray or "", store or str(out / _STORE), durable)
        done += _run(due, wanted, at_once)
    outcomes = [*planned.failed, *done]
    written = _summarize(out, [run.folder for run in planned.runs], outcomes, fresh=bool(due))
    _say(outcomes, written, as_json)
    if any(outcome.state in ("failed", "interrupted") for outcome in outcomes):
        raise typer.Exit(1)


def _run(due: "Sequence[Planned]", wanted: Any, at_once: int) -> "list[Outcome]":
    from mpsearch.workers.job_queue import run_jobs

    with _progress(due) as (heard, ended):
        return run_jobs(due, wanted, at_once=at_once, heard=heard, ended=ended)


def _summarize(
    out: Path, folders: list[Path], outcomes: "Sequence[Outcome]", *, fresh: bool
) -> list[Path]:
    """Write the summary, unless it is there and nothing has changed since."""
    written = [out / "summary.csv", out / "summary.html"]
    there = [folder for folder in folders if (folder / "run.json").is_file()]
    if not there:
        return []
    newest = max((folder / "run.json").stat().st_mtime_ns for folder in there)
    old = all(path.is_file() and path.stat().st_mtime_ns >= newest for path in written)
    if old and not fresh:
        return written
    from mpsearch.artifacts import write_text
    from mpsearch.jobs.batches.summary import summarize, summary_csv
    from mpsearch.jobs.batches.summary_page import write_summary

    summary = summarize(there)
    write_text(written[0], summary_csv(summary))
    missed = [o for o in outcomes if o.state in ("failed", "interrupted")]
    write_summary(written[1], summary, missed)
    return written


def _say(outcomes: "Sequence[Outcome]", written: list[Path], as_json: bool) -> None:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    if as_json:
        found = [
            {"run": o.name, "state": o.state, "said": o.said, "seconds": round(o.seconds, 2)}
            for o in outcomes
        ]
        print_json({"runs": found, "counts": counts, "summary": [p.name for p in written]})
        return
    missed = [o for o in outcomes if o.state in ("failed", "interrupted")]
    if missed:
        rows = [[o.name, o.state, o.said] for o in missed]
        print_table("runs that did not finish", ["run", "state", "why"], rows, text_columns=3)
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"{len(outcomes)} runs: {said}")
    if written:
        print("written: " + ", ".join(str(path) for path in written))


@contextmanager
def _progress(
    due: "Sequence[Planned]",
) -> "Iterator[tuple[Callable[[str, str, int, int], None], Callable[[Outcome], None]]]":
    """Yield what hears of progress and of outcomes: a table on a terminal, else a line a run."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    console = Console(stderr=True)
    if not console.is_terminal:
        number = 0

        def line(outcome: "Outcome") -> None:
            nonlocal number
            number += 1
            why = f": {outcome.said}" if outcome.said else ""
            said = f"[{number}/{len(due)}] {outcome.name}: {outcome.state}"
            print(f"{said} in {outcome.seconds:.1f} s{why}", file=sys.stderr)

        yield (lambda *_: None), line
        return
    state = {run.name: ("waiting", "", "") for run in due}

    def table() -> Table:
        found = Table("run", "state", "stage", "done")
        order = sorted(state, key=lambda name: state[name][0] != "running")
        for name in order[: max(5, console.height - 6)]:
            found.add_row(name, *state[name])
        return found

    with Live(table(), console=console, refresh_per_second=4) as live:

        def heard(name: str, stage: str, done: int, total: int) -> None:
            state[name] = ("running", stage, f"{done}/{total}")
            live.update(table())

        def ended(outcome: "Outcome") -> None:
            state[outcome.name] = (outcome.state, outcome.said[:60], f"{outcome.seconds:.0f} s")
            live.update(table())

        yield heard, ended
