"""Plans that people asked a run to measure: ``wishes.json``, which dashboards fill and ``mpsearch measure`` works off."""

from pathlib import Path

from pydantic import Field

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.stats.estimates import Estimate

FILE = "wishes.json"
MOST = 200


class Wish(Content):
    """One plan that was asked for.

    Attributes:
        assignment: [G] scheme indices.
        loss: What it was measured to lose; None before.
        trouble: Why it could not be measured; "" if it could, or was not tried yet.
    """

    assignment: tuple[int, ...]
    loss: Estimate | None = None
    trouble: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is still to be measured."""
        return self.loss is None and not self.trouble


class Wishes(Content):
    """The queue of a run, the first asked first.

    Attributes:
        plans: What was asked for, each plan once.
    """

    plans: tuple[Wish, ...] = Field(default=(), max_length=MOST)


def read_wishes(run: Path) -> Wishes:
    """Return what was asked of the run in the folder ``run``; nothing if nothing was.

    Raises:
        ArtifactError: The file is damaged.
    """
    path = run / FILE
    return read_artifact(path, "wishes", Wishes) if path.is_file() else Wishes()


def wish(run: Path, assignment: tuple[int, ...]) -> Wishes:
    """Add a plan to the queue of ``run``, unless it is there or the queue is full; return the queue."""
    asked = read_wishes(run)
    known = {plan.assignment for plan in asked.plans}
    if assignment in known or len(asked.plans) >= MOST:
        return asked
    return _write(run, Wishes(plans=(*asked.plans, Wish(assignment=assignment))))


def note_wish(run: Path, done: Wish) -> Wishes:
    """Put what became of a plan in its place in the queue; return the queue."""
    plans = [done if p.assignment == done.assignment else p for p in read_wishes(run).plans]
    return _write(run, Wishes(plans=tuple(plans)))


def _write(run: Path, asked: Wishes) -> Wishes:
    write_artifact(run / FILE, "wishes", asked)
    return asked
