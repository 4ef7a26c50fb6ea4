"""A run that lies on disk, read again: what dashboards, reports and programs look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from mpsearch.graph.model import ModelGraph
from mpsearch.plan.files import read_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Front, read_front
from mpsearch.problem.tables import Costs, Table, read_costs, read_table
from mpsearch.runs.graph_file import read_graph
from mpsearch.runs.job import Job
from mpsearch.runs.job_file import read_job
from mpsearch.runs.record import Results, RunRecord, read_record
from mpsearch.sensitivity.self_test_file import SelfTest, read_self_test
from mpsearch.shown import count, html_table, say
from mpsearch.stats.digits import number, with_error

T = TypeVar("T")


@dataclass(frozen=True)  # no slots: what was read is kept
class Run:
    """A run folder; each of its files is read when first asked for, and not again.

    Reading raises an ``ArtifactError`` where a file is missing or damaged.

    Attributes:
        path: The folder.
        record: What ``run.json`` said when the run was opened.
    """

    path: Path
    record: RunRecord

    def __repr__(self) -> str:
        """Where it stands, in a line."""
        return say("Run", *self._facts())

    def _repr_html_(self) -> str:
        """What a notebook shows: the plans that it ends with, predicted apart from measured."""
        rows = []
        for row in self.results.rows if self.results else ():
            cells = [number(v) for v in (row.latency_us, row.weight_bytes, row.effective_bits)]
            losses = [values.get("loss") for values in (row.predicted, row.measured)]
            rows.append([row.label, *cells, *(with_error(e) if e else "–" for e in losses)])
        columns = ("plan", "latency (µs)", "weights (bytes)", "effective bits")
        heads = (*columns, "predicted loss", "measured loss")
        return html_table(f"Run {', '.join(filter(None, self._facts()))}", heads, rows)

    def _facts(self) -> tuple[str, ...]:
        record = self.record
        state = "interrupted" if record.interrupted else "finished"
        return (
            f"{self.path.name} {state if record.results or record.interrupted else 'not finished'}",
            f"stages {', '.join(record.stages)}" if record.stages else "no stage done",
            f"{count(record.evaluations, 'evaluation')} kept",
        )

    @cached_property
    def job(self) -> Job:
        """What was asked, with file names and digests."""
        return read_job(self.path / "job.toml")

    @cached_property
    def graph(self) -> ModelGraph:
        """Layers, groups, edges and coverage of the model; without nodes and weights."""
        return read_graph(self.path / "graph.json")

    @cached_property
    def costs(self) -> Costs:
        """Costs of each group in each scheme on the device."""
        return read_costs(self.path / "costs.json")

    @cached_property
    def table(self) -> Table | None:
        """Sensitivities; None where the run had no data, or did not come so far."""
        return self._read("sensitivity.json", read_table)

    @cached_property
    def front(self) -> Front | None:
        """The front; None where the run had no data, or did not come so far."""
        return self._read("front.json", read_front)

    @cached_property
    def self_test(self) -> SelfTest | None:
        """How the table ranks random plans that were measured; None where that was not asked for."""
        return self._read("self_test.json", read_self_test)

    @cached_property
    def plans(self) -> Mapping[str, Plan]:
        """Name to plan of all that lie in ``plans/``: chosen, uniform, and of measured points."""
        return {path.stem: read_plan(path) for path in sorted((self.path / "plans").glob("*.json"))}

    @property
    def results(self) -> Results | None:
        """The final table and what is said of it; None before the run's end."""
        return self.record.results

    def _read(self, name: str, read: Callable[[Path], T]) -> T | None:
        path = self.path / name
        return read(path) if path.is_file() else None


def open_run(path: Path | str) -> Run:
    """Open a run folder: its job, graph, table, costs, front, plans and record.

    Raises:
        JobError: There is no such folder, or it is no run.
        ArtifactError: Its ``run.json`` is damaged.
    """
    return Run(Path(path), read_record(Path(path)))
