"""The runs that are shown: found in the folders that were named, read again when they change, never written."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from sqlite3 import Error as SqliteError
from threading import Lock

import numpy as np

from mpsearch.choose.measured import plan_file, with_points
from mpsearch.errors import MpsearchError
from mpsearch.figures.content import Report
from mpsearch.figures.plan_row import PlanRow, predicted_line
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Front, Point, read_front
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs, Table
from mpsearch.runs.report import read_report
from mpsearch.runs.run import Run, open_run
from mpsearch.runs.status import Status, read_status
from mpsearch.runs.watched.losses_so_far import read_losses
from mpsearch.runs.watched.wishes import Wishes, read_wishes
from mpsearch.shown import visible
from mpsearch.stats.estimates import Bools, Estimate, estimate_mean

_WATCHED = (
    *("run.json", "graph.json", "costs.json", "sensitivity.json", "plain_front.json"),
    *("front.json", "self_test.json", "wishes.json", "latencies.json", "ranges.json"),
    *("evaluations.sqlite", "evaluations.sqlite-wal", "log.jsonl"),
)
_MOST_SEEN = 16
_ALIVE_S = 120.0
"""A run that has not reached its end and was written to this recently is taken to be running."""


@dataclass(frozen=True)  # no slots: what is worked out is kept
class Shown:
    """One run as it is now; what is not there yet is None.

    Attributes:
        key: What the browser calls it.
        name: Of its folder, as text.
        path: Its folder.
        state: ``finished``, ``running``, ``interrupted`` or ``damaged``.
        why: What is damaged, or what is missing; "" if nothing is.
        version: Changes when the folder does.
        run: The folder's files.
        graph: The model.
        costs: Its costs.
        table: Its sensitivities.
        front: Its front; before there is one, all that was measured so far.
        report: What its report shows, once it is finished.
        wishes: What people asked to be measured.
        spent: Assignments that were measured so far.
        status: Who works on it, and how far that is.
    """

    key: str
    name: str
    path: Path
    state: str
    why: str = ""
    version: str = ""
    run: Run | None = None
    graph: ModelGraph | None = None
    costs: Costs | None = None
    table: Table | None = None
    front: Front | None = None
    report: Report | None = None
    wishes: Wishes = field(default_factory=Wishes)
    spent: int = 0
    status: Status | None = None

    @cached_property
    def problem(self) -> Problem | None:
        """The tables as one problem, by which anything is predicted."""
        if self.table is None or self.costs is None:
            return None
        return build_problem(self.table, self.costs)

    @property
    def allowed(self) -> Bools | None:
        """[G, S]: allowed by the device, the space and the data."""
        return None if self.problem is None else self.problem.allowed

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """(group, scheme) name to why it is not allowed."""
        if self.table is None or self.costs is None:
            return {}
        return {**self.table.reasons, **self.costs.reasons}

    @property
    def unit(self) -> str:
        """Unit of the loss."""
        if self.report is not None:
            return self.report.unit
        return "" if self.table is None else self.table.unit

    @property
    def rows(self) -> tuple[PlanRow, ...]:
        """Plans that the run compares."""
        return () if self.report is None else self.report.rows

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Key of a plan that has a name to its name; of plans with the same decisions the recovered one's."""
        rows = sorted(self.rows, key=lambda row: bool(row.recovery))
        return {key_of(row.assignment): row.label for row in rows if row.assignment is not None}

    @cached_property
    def points(self) -> Mapping[str, Point]:
        """Key to point of everything that can be chosen: the front, and the plans that it is compared with."""
        points = () if self.front is None else self.front.points
        found = {key_of(p.assignment): p for p in points}
        for row in self.rows:
            if row.assignment is not None and key_of(row.assignment) not in found:
                found[key_of(row.assignment)] = self.point(row.assignment, row.measured)
        return found

    @cached_property
    def plans(self) -> Mapping[str, str]:
        """Key of a point to the plan file that lies in the run for it."""
        there = {path.name for path in (self.path / "plans").glob("*.json")}
        found: dict[str, str] = {}
        for key in self.points:
            named = f"{self.labels.get(key, '').replace(' ', '_')}.json"
            name = next((n for n in (f"point_{key}.json", named) if n in there), "")
            if name:
                found[key] = name
        return found

    @cached_property
    def _seen(self) -> dict[tuple[str, str, tuple[float, float] | None], Front]:
        return {}

    def front_in(self, x: str, y: str, window: tuple[float, float] | None = None) -> Front:
        """Return what can be seen of the front in two objectives: its predicted line, and what was measured.

        Args:
            x: Objective along which points are looked at.
            y: The other one.
            window: Ends of ``x`` in sight; None shows all.
        """
        assert self.front is not None
        key = x, y, window
        if key not in self._seen:
            points = self.front.points
            if window is not None:
                low, high = window
                points = tuple(p for p in points if low <= p.value(x).mean <= high) or points
            line = {p.assignment for p in predicted_line(points, x, y)}
            kept = tuple(p for p in points if p.measured or p.assignment in line)
            if len(self._seen) > _MOST_SEEN:
                self._seen.clear()
            self._seen[key] = replace(self.front, points=kept)
        return self._seen[key]

    def point(
        self, assignment: Sequence[int], measured: Mapping[str, Estimate] = {}, method: str = ""
    ) -> Point:
        """Return the point of ``assignment`` [G], predicted by the run's tables."""
        assert self.problem is not None
        rows = np.array([assignment], np.int64)
        totals, errors = self.problem.evaluate(rows), self.problem.stderrs(rows)
        predicted = {
            name: Estimate(float(v[0]), float(errors[name][0])) for name, v in totals.items()
        }
        bits = self.problem.effective_bits(rows)
        if bits is not None:
            predicted["effective_bits"] = Estimate(float(bits[0]))
        return Point(tuple(int(s) for s in assignment), predicted, measured, method)


class Runs:
    """The run folders under some paths; reading is safe from several threads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._known: dict[str, Shown] = {}
        self._read_at: dict[str, float] = {}
        self._lock = Lock()

    def folders(self) -> dict[str, Path]:
        """Return key to folder of every run that there is now."""
        found: dict[str, Path] = {}
        for path in self._paths:
            inner = [path] if _is_run(path) else sorted(p for p in path.glob("*") if _is_run(p))
            found |= {sha256(str(p.resolve()).encode()).hexdigest()[:10]: p for p in inner}
        return found

    def read(self, key: str) -> Shown | None:
        """Return the run called ``key`` as it is now; None if there is none. Damage is said, never raised."""
        path = self.folders().get(key)
        if path is None:
            return None
        with self._lock:
            version = _version(path)
            known = self._known.get(key)
            stale = time.monotonic() - self._read_at.get(key, 0.0) > _ALIVE_S / 10
            if known is None or known.version != version or (known.state == "running" and stale):
                known = replace(_read(key, path), version=version)
                self._known[key] = known
                self._read_at[key] = time.monotonic()
            return known

    def all(self) -> Iterator[Shown]:
        """Yield every run."""
        for key in self.folders():
            found = self.read(key)
            if found is not None:
                yield found


def key_of(assignment: Sequence[int]) -> str:
    """Return what the browser calls a plan; a run's folder names its file alike."""
    named = plan_file(Point(tuple(assignment), {}))
    return named.removeprefix("point_").removesuffix(".json")


def _is_run(path: Path) -> bool:
    return (path / "job.toml").is_file() or (path / "run.json").is_file()


def _version(path: Path) -> str:
    parts = []
    for name in (*_WATCHED, "plans"):
        try:
            found = (path / name).stat()
        except OSError:
            continue
        parts.append(f"{name}:{found.st_mtime_ns}:{found.st_size}")
    return sha256(" ".join(parts).encode()).hexdigest()[:16]


def _age_s(path: Path) -> float:
    times = [(path / name).stat().st_mtime for name in _WATCHED if (path / name).is_file()]
    return time.time() - max(times, default=0.0)


def _read(key: str, path: Path) -> Shown:
    name = visible(path.resolve().name)[:200]
    try:
        return _read_whole(key, name, path)
    except (MpsearchError, SqliteError, OSError, ValueError, KeyError, IndexError) as error:
        why = str(error) if isinstance(error, MpsearchError) else f"a file cannot be read: {error}"
        return Shown(key, name, path, "damaged", visible(why.replace(str(path), name))[:500])


def _read_whole(key: str, name: str, path: Path) -> Shown:
    run = open_run(path)
    ended = run.results is not None and not run.record.interrupted
    status = read_status(path)
    alive = status.holder is not None or (status.state == "interrupted" and _age_s(path) < _ALIVE_S)
    state = "running" if alive and not ended else "finished" if ended else "interrupted"
    if not (path / "graph.json").is_file():
        return Shown(key, name, path, state, "nothing was written yet", run=run, status=status)
    costs = run.costs if (path / "costs.json").is_file() else None
    found = Shown(key, name, path, state, run=run, graph=run.graph, costs=costs, table=run.table)
    found = replace(found, wishes=read_wishes(path), spent=run.record.evaluations, status=status)
    if found.table is None:
        has_data = bool(run.job.data)
        why = "sensitivities are still to come" if has_data else "the run had no data: costs alone"
        return replace(found, why=why)
    report = read_report(path) if ended and run.results and run.results.samples else None
    losses = _measured_so_far(run)
    front = run.front
    if front is None and (path / "plain_front.json").is_file():
        front = read_front(path / "plain_front.json")
    if front is None:
        front = _live_front(found, losses)
    extra = [
        found.point(a.assignment, {"loss": a.loss}, "wishes") for a in found.wishes.plans if a.loss
    ]
    return replace(
        found,
        front=with_points(front, extra),
        report=report,
        spent=max(found.spent, len(losses)),
    )


def _measured_so_far(run: Run) -> dict[tuple[int, ...], Estimate]:
    """Losses that the run's store holds of whole plans, while there is no front that says them."""
    stage = run.record.stages.get("sensitivity")
    context = stage.inputs.get("context", "") if stage is not None else ""
    if not context or run.front is not None:
        return {}
    found = read_losses(run.path / "evaluations.sqlite", context)
    return {assignment: estimate_mean(losses) for assignment, losses in found.items()}


def _live_front(shown: Shown, losses: Mapping[tuple[int, ...], Estimate]) -> Front:
    """All that was measured so far, as points of a front over the job's objectives."""
    assert shown.problem is not None
    assert shown.run is not None
    G, problem = shown.problem.n_groups, shown.problem
    names = tuple(n for n in shown.run.job.objectives if n in problem.objectives)
    points = [
        shown.point(assignment, {"loss": loss}, "measured")
        for assignment, loss in losses.items()
        if len(assignment) == G
    ]
    points.sort(key=lambda p: p.value(names[0]).mean)
    return Front(tuple(points), names, problem.schemes, problem.groups, "measured so far")
