"""Scoring alone: one sensitivity metric or several on a job's model, tested against measured plans."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsearch.errors import JobError, ProblemError
from mpsearch.jobs.calibrate import calibrated_simulator
from mpsearch.jobs.prepare import Prepared
from mpsearch.jobs.price import price
from mpsearch.jobs.stage_inputs import Watch, batch_contexts, evaluation_context, unwatched
from mpsearch.problem.build import build_problem
from mpsearch.problem.pareto import thin
from mpsearch.problem.tables import Costs, Table
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.stored_losses import StoredLosses
from mpsearch.search.find_front import find_front
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.sensitivity.selftest import draw_plans, self_test
from mpsearch.sensitivity.shared.entries import predict
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, Ints
from mpsearch.stats.rank_correlation import rank_agreement

CALIBRATED_SAMPLES = 64
_FRONT_SHARE = 4  # one plan along the front for this many random ones, and no fewer than 8
_COMPARED_PLANS = 200  # that tables are compared on where none are measured


@dataclass(frozen=True, slots=True)
class Scoring:
    """Tables of metrics, in the order asked for.

    Attributes:
        tables: [M] tables.
        seconds: [M] wall-clock seconds each took, nothing shared between metrics.
        tests: [M] self-tests on the same plans; None where no plans were measured.
        entry_agreement: [M, M] Spearman of the values of entries that all of them allow.
        plan_agreement: [M, M] Spearman of what they predict of the same random plans.
        unit: Unit of measured losses.
        notes: What a reader must know.
    """

    tables: tuple[Table, ...]
    seconds: tuple[float, ...]
    tests: tuple[SelfTest | None, ...]
    entry_agreement: Floats
    plan_agreement: Floats
    unit: str
    notes: tuple[str, ...] = ()


def score_metrics(
    prepared: Prepared,
    metrics: Sequence[str],
    *,
    n_plans: int = 0,
    along_front: bool = False,
    time_limit_s: float | None = None,
    store: Path | None = None,
    watch: Watch = unwatched,
) -> Scoring:
    """Score a job's model by each of ``metrics``.

    Args:
        prepared: The job, its files read and checked; its metric is not read.
        metrics: Names of metrics.
        n_plans: Random plans to measure and to rank by each table; 0 measures none.
        along_front: Whether plans along each table's own predicted front are measured as well.
        time_limit_s: Seconds of each metric, after which it returns what it has.
        store: File that keeps losses by batch: what is in it is not measured again. Ranges and recovered
            weights come from the first samples that it was begun with, so that more samples
            leave what was measured as it is.
        watch: Told of the progress of each stage.

    Raises:
        JobError: The job has no data.
        MpsearchError: A metric failed.
    """
    job, batches = prepared.job, prepared.batches
    if batches is None:
        raise JobError("sensitivity is measured on data; give --data")
    notes: list[str] = []
    costs = price(prepared)
    with ExitStack() as stack:
        kept = None if store is None else stack.enter_context(EvaluationStore(store))
        count = len(batches)
        if kept is not None:
            model = job.digests["weights"]
            first = min(count, CALIBRATED_SAMPLES)
            count = min(count, int(kept.settle(f"calibrated samples of {model}", str(first))))
            if count < len(batches):
                notes.append(f"ranges are those of the first {count} samples, as in {store.name}")  # type: ignore[union-attr]
        few = batches.take(count)
        simulator = calibrated_simulator(prepared, few, watch)

        def fresh() -> Simulator:
            """A simulator that has measured nothing but what the store holds."""
            own = simulator if len(metrics) == 1 else simulator.on_data(batches)
            if kept is None:
                return own
            contexts = batch_contexts(prepared, own, few)
            whole = evaluation_context(prepared, own, few)
            return own.keep_losses(StoredLosses(kept, whole, contexts))

        tables, spent = [], []
        for metric in metrics:
            started = time.perf_counter()
            tables.append(
                score_sensitivity(
                    fresh(),
                    metric=metric,
                    costs=costs,
                    budget=job.budget or None,
                    settings=job.metric_settings,
                    seed=job.seed,
                    time_limit_s=time_limit_s,
                    progress=watch(metric),
                )
            )
            spent.append(time.perf_counter() - started)
        tests: list[SelfTest | None] = [None] * len(tables)
        if n_plans:
            judge = fresh()
            for i, table in enumerate(tables):
                front = _front_plans(table, costs, max(8, n_plans // _FRONT_SHARE))
                tests[i] = self_test(
                    judge,
                    table,
                    n_plans=n_plans,
                    front=front if along_front else None,
                    seed=job.seed,
                    progress=watch(f"test {table.metric}"),
                )
        allowed = np.logical_and.reduce([table.allowed for table in tables])
        plans = draw_plans(allowed, n_plans or _COMPARED_PLANS, seed=job.seed)
        entries = allowed.copy()
        entries[:, simulator.space.index(simulator.space.base)] = False
        return Scoring(
            tuple(tables),
            tuple(spent),
            tuple(tests),
            _agreement([table.values[entries] for table in tables]),
            _agreement([predict(table, plans) for table in tables]),
            simulator.unit,
            tuple(notes),
        )


def _front_plans(table: Table, costs: Costs, count: int) -> Ints:
    """[P, G] plans spread over the front that ``table`` predicts."""
    problem = build_problem(table, costs)
    try:
        front = find_front(problem, method="exact")
    except ProblemError:
        front = find_front(problem, method="milp", budget=count)
    chosen = thin(front.objectives, min(count, len(front.points)))
    return np.asarray(front.assignments[np.asarray(chosen)], np.int64)


def _agreement(values: Sequence[Floats]) -> Floats:
    """[M, M] Spearman correlations."""
    found = np.eye(len(values))
    for i, left in enumerate(values):
        for j, right in enumerate(values[:i]):
            found[i, j] = found[j, i] = rank_agreement(left, right, n_draws=2).spearman.value
    return found
