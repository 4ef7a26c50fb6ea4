"""What a run gives: as a value, in ``run.json``, and as a report."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from mpsearch.choose.by_quality import Drop, describe
from mpsearch.choose.rules import Choice
from mpsearch.data.batches import Batches
from mpsearch.errors import JobError
from mpsearch.figures.content import Report
from mpsearch.figures.plan_row import PlanRow
from mpsearch.jobs.prepare import Prepared
from mpsearch.problem.front import Front, read_front
from mpsearch.problem.tables import Costs, Table, read_costs, read_table
from mpsearch.runs.graph_file import read_graph
from mpsearch.runs.job import read_job
from mpsearch.runs.run_folder import Results, RunRecord, read_record
from mpsearch.sensitivity.self_test_file import SelfTest, read_self_test
from mpsearch.sensitivity.shared.additivity import additive_residual
from mpsearch.simulate.simulator import Simulator


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gives.

    Attributes:
        costs: Costs on the device.
        rows: Plans to compare; all there is without data.
        notes: What a reader must know.
        table: Sensitivities; None without data.
        front: The front; None without data.
        choices: Plans that were written, the main one first.
        correlation: Spearman of predicted and measured losses along the front, and of how many points.
        unit: Unit of the loss.
        test: How the table ranks random plans; None where that was not asked for.
        drops: Plans whose quality was tested on held-out data, in order.
        evaluations: Whole assignments whose losses are kept.
        seconds: Wall time of the run.
    """

    costs: Costs
    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...]
    table: Table | None = None
    front: Front | None = None
    choices: tuple[Choice, ...] = ()
    correlation: tuple[float, int] = (float("nan"), 0)
    unit: str = ""
    test: SelfTest | None = None
    drops: tuple[Drop, ...] = ()
    evaluations: int = 0
    seconds: float = 0.0

    @property
    def additive_residual(self) -> float | None:
        """Share of random plans' loss that the table's sums leave unexplained; None where nobody measured it."""
        if self.table is None or self.test is None:
            return None
        return additive_residual(self.table, self.test, self.unit)


def make_results(prepared: Prepared, simulator: Simulator, outcome: Outcome) -> Results:
    """Return what ``run.json`` keeps of a run with data."""
    correlation, count = outcome.correlation
    return Results(
        space=prepared.space.name,
        samples=simulator.n_samples,
        held_out=len(prepared.evaluation) if prepared.evaluation is not None else 0,
        unit=outcome.unit,
        rows=outcome.rows,
        chosen=outcome.choices[0].point.assignment,
        rules={f"{choice.name}.json": choice.rule for choice in outcome.choices},
        correlation=correlation if isfinite(correlation) else None,
        correlated=count,
        notes=outcome.notes,
    )


def read_report(path: Path) -> Report:
    """Return the report of the finished run in the folder ``path``, from its files alone.

    Raises:
        JobError: The run did not reach its end, or had no data.
        ArtifactError: A file of it is missing or damaged.
    """
    record = read_record(path)
    if record.results is None:
        raise JobError(
            f"{path.name}: a report needs a run that reached its end with data; "
            "run the same search again to go on"
        )
    return make_report(path, record, record.results)


def make_report(path: Path, record: RunRecord, results: Results) -> Report:
    """Return the report of a run from what lies in its folder ``path``."""
    graph, job = read_graph(path / "graph.json"), read_job(path / "job.toml")
    costs, front = read_costs(path / "costs.json"), read_front(path / "front.json")
    facts = {"calibration samples": str(results.samples)}
    if results.held_out:
        facts["held-out samples"] = str(results.held_out)
    facts |= {f"plans/{name}": rule for name, rule in results.rules.items()}
    points = {point.assignment: point for point in front.points}
    return Report(
        title=graph.name.rpartition(".")[0] or graph.name,
        model=graph.name,
        device=costs.device,
        space=results.space,
        batch=costs.batch,
        seed=job.seed,
        fingerprint=record.fingerprint,
        front=front,
        table=read_table(path / "sensitivity.json"),
        costs=costs,
        graph=graph,
        rows=results.rows,
        chosen=points.get(results.chosen),
        rank_correlation=None
        if results.correlation is None
        else (results.correlation, results.correlated),
        notes=results.notes,
        facts=facts,
        self_test=read_self_test(tested) if (tested := path / "self_test.json").is_file() else None,
        unit=results.unit,
    )


def make_notes(
    prepared: Prepared,
    simulator: Simulator,
    calibration: Batches,
    table: Table,
    choices: tuple[Choice, ...],
    drops: tuple[Drop, ...] = (),
) -> tuple[str, ...]:
    """Return what a reader of the run's table must know."""
    graph, space = prepared.graph, prepared.space
    notes = [f"{choice.label}: {choice.rule}, as measured." for choice in choices]
    notes += _quality_notes(prepared.job.quality, drops)
    notes += [f"{table.metric}: {note}" for note in table.notes]
    limited = [
        f"{name} for {int(column.sum())} of {len(graph.groups)} groups"
        for name, column in zip(space.names, simulator.allowed.T, strict=True)
        if not column.all()
    ]
    if limited:
        notes.append(
            f"Uniform plans take their scheme where it is allowed and {space.base} elsewhere: "
            + ", ".join(limited)
            + "."
        )
    if len(calibration) < simulator.n_samples:
        recovered = any(scheme.recovery != "none" for scheme in space.schemes)
        notes.append(
            f"{'Ranges and recovered weights' if recovered else 'Ranges'} are those of the first "
            f"{len(calibration)} of {simulator.n_samples} samples, which this run was begun with; a new "
            "folder would calibrate on all."
        )
    if prepared.evaluation is None:
        notes.append(
            "Losses are on the data that plans were chosen with; --eval scores them on others."
        )
    undecided = graph.coverage.undecided
    if undecided:
        notes.append(f"{len(undecided)} items are not decided by any plan; coverage lists them.")
    return tuple(notes)


def _quality_notes(quality: str, drops: tuple[Drop, ...]) -> list[str]:
    """What was found of the chosen plan, and of the next one, which was not kept."""
    kept = [drop for drop in drops if drop.test.verdict == "kept"]
    notes = [f"mixed, {quality}: {describe(drop)}." for drop in kept[-1:]]
    for drop in drops[len(kept) :]:
        goal, value = "latency_us", drop.point.value("latency_us").mean
        notes.append(f"The next plan tested, of {goal} {value:.4g}, {quality}: {describe(drop)}.")
    if drops:
        notes.append(
            "Held-out data took part in choosing: their scores of the chosen plan flatter it."
        )
    return notes
