"""The end of a run: its plans written, its rows scored, what ``run.json`` keeps, and the report of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from mpsearch.choose.by_quality import Drop, Scorer, describe
from mpsearch.choose.measured import measure_point, plan_file
from mpsearch.choose.rules import CHOICES, Choice
from mpsearch.figures.plan_row import PlanRow, cost_rows, plan_row, reference_row
from mpsearch.jobs.calibrate import keep_weights, note_calibration
from mpsearch.jobs.held_out import score_plans
from mpsearch.jobs.prepare import Prepared
from mpsearch.jobs.recovered import RecoveredPlans
from mpsearch.jobs.stage_inputs import Bench
from mpsearch.plan.files import remove_plan, weights_file, write_plan
from mpsearch.plan.make import add_weights, decide_plan
from mpsearch.problem.front import Front, Point
from mpsearch.problem.tables import Costs, Table
from mpsearch.runs.record import QualityTest, Results
from mpsearch.search.measured.measure import rank_correlation
from mpsearch.simulate.loss_parts import find_lopsided, losses_by_output, losses_by_slice
from mpsearch.stats.digits import number
from mpsearch.stats.estimates import Estimate


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen from a front.

    Attributes:
        choices: The plans, the main one first.
        front: The front, with all that was measured on the way.
        drops: Plans whose quality was tested on held-out data, in order.
    """

    choices: tuple[Choice, ...]
    front: Front
    drops: tuple[Drop, ...] = ()


def write_plans(
    bench: Bench,
    chosen: Chosen,
    uniforms: Mapping[str, Point],
    recovered: RecoveredPlans | None = None,
) -> None:
    """Write the chosen plans, the uniform ones and those of the measured points into ``plans/``.

    A rule that none meets any more, now that there are more samples, leaves no plan. Weights that an earlier
    plan of the same decisions brings are kept: calibration data are not read again. What was chosen after recovery, and
    what the front holds of it, is written with the weights that recovery gave it.
    """
    measured = (point for point in chosen.front.points if "loss" in point.measured)
    named = {plan_file(point).removesuffix(".json"): point for point in measured}
    named |= {choice.name: choice.point for choice in chosen.choices}
    ours = frozenset(named)
    named |= {label.replace(" ", "_"): point for label, point in uniforms.items()}
    safest = f"uniform_{bench.prepared.space.base}"
    for name in CHOICES - named.keys():
        remove_plan(bench.folder.file("plans") / f"{name}.json")
    for name, point in named.items():
        path = bench.folder.file("plans") / f"{name}.json"
        plan = decide_plan(point, bench.simulator, costs=bench.costs)
        plan = note_calibration(plan, bench.calibration)
        won = recovered.plan(point.assignment) if recovered is not None and name in ours else None
        if won is not None:
            plan = replace(
                won, predicted=plan.predicted, measured=plan.measured, method=plan.method
            )
        else:
            plan = keep_weights(plan, path) or add_weights(plan, bench.simulator)
        fallback = f"{safest}.json" if name != safest else ""
        write_plan(replace(plan, fallback=fallback), path)
        if plan.weights is None:
            weights_file(path).unlink(missing_ok=True)


def score_rows(
    bench: Bench,
    scorer: Callable[[RecoveredPlans | None], Scorer] | None,
    choices: tuple[Choice, ...],
    uniforms: Mapping[str, Point],
    recovered: RecoveredPlans | None = None,
) -> tuple[PlanRow, ...]:
    """Return the rows of fp32, the uniform and the chosen plans; with held-out data, scored on them.

    Where plans were recovered each of these stands there as it is without, and as it is with recovery.
    Rules that chose one plan share a label and a row.

    Args:
        bench: The run.
        scorer: Given what plans are recovered, scores plans on held-out data; None: there are none.
        choices: The chosen plans.
        uniforms: Label to measured point of the uniform plans and those of rules, without recovery.
        recovered: The plans that were recovered; None: that was not asked for.
    """
    lines: list[tuple[str, Point, RecoveredPlans | None]] = [
        (label, point, None) for label, point in uniforms.items()
    ]
    for label, point in () if recovered is None else uniforms.items():
        if recovered is not None and recovered.plan(point.assignment) is not None:
            lines.append((f"{label}, recovered", recovered.point(point), recovered))
    for choice in {choice.label: choice for choice in choices}.values():
        if recovered is not None and recovered.plan(choice.point.assignment) is not None:
            bare = measure_point(replace(choice.point, measured={}), bench.simulator)
            lines.append((f"{choice.label}, plain", bare, None))
        lines.append((choice.label, choice.point, recovered))
    if scorer is None:
        return (
            reference_row(bench.costs),
            *(_row(label, point, {}, won) for label, point, won in lines),
        )
    named: list[tuple[str, tuple[int, ...] | None]] = [("fp32", None)]
    scores = score_plans(scorer(None), named, bench.watch("held-out"))
    for won in dict.fromkeys(won for _, _, won in lines):
        named = [(label, point.assignment) for label, point, other in lines if other is won]
        scores += score_plans(scorer(won), named, bench.watch("held-out"))
    order = [
        i
        for won in dict.fromkeys(w for _, _, w in lines)
        for i, line in enumerate(lines)
        if line[2] is won
    ]
    by_line = dict(zip(order, scores[1:], strict=True))
    return (
        reference_row(bench.costs, scores[0]),
        *(_row(label, point, by_line[i], won) for i, (label, point, won) in enumerate(lines)),
    )


def _row(
    label: str, point: Point, scores: Mapping[str, Estimate], recovered: RecoveredPlans | None
) -> PlanRow:
    plan = None if recovered is None else recovered.plan(point.assignment)
    row = plan_row(label, point, scores)
    return row if plan is None else replace(row, recovery=plan.recovery)


def make_results(bench: Bench, table: Table, chosen: Chosen, rows: tuple[PlanRow, ...]) -> Results:
    """Return what ``run.json`` keeps of a run with data."""
    prepared, choices = bench.prepared, chosen.choices
    correlation, count = rank_correlation(chosen.front)
    main = np.asarray(choices[0].point.assignment)
    by_output = losses_by_output(bench.simulator, main)
    by_slice = losses_by_slice(bench.simulator, main)
    return Results(
        space=prepared.space.name,
        samples=bench.simulator.n_samples,
        held_out=len(prepared.evaluation) if prepared.evaluation is not None else 0,
        unit=bench.simulator.unit,
        rows=rows,
        chosen=choices[0].point.assignment,
        rules={f"{choice.name}.json": choice.rule for choice in choices},
        labels={f"{choice.name}.json": choice.label for choice in choices},
        correlation=correlation if isfinite(correlation) else None,
        correlated=count,
        notes=(*_notes(bench, table, chosen), *_lopsided_notes(choices[0], by_output, by_slice)),
        tests=tuple(map(_quality_test, chosen.drops)),
        by_output=by_output,
        by_slice=by_slice,
    )


def cost_results(prepared: Prepared, costs: Costs) -> Results:
    """Return what ``run.json`` keeps of a run without data."""
    return Results(
        space=prepared.space.name,
        samples=0,
        held_out=0,
        unit="",
        rows=tuple(cost_rows(costs, prepared.space, prepared.graph, costs.allowed)),
        chosen=(),
        rules={},
        correlation=None,
        correlated=0,
        notes=("Without --data only shapes, cost and size are known: no plan was chosen.",),
    )


def _quality_test(drop: Drop) -> QualityTest:
    test = drop.test
    return QualityTest(
        latency_us=drop.point.value("latency_us").mean,
        drop=test.drop,
        stderr=test.stderr,
        lower=test.lower,
        upper=test.upper,
        verdict=test.verdict,
        samples=test.samples,
        samples_needed=test.samples_needed,
    )


def _notes(bench: Bench, table: Table, chosen: Chosen) -> tuple[str, ...]:
    """What a reader of the run's table must know."""
    prepared, simulator, calibration = bench.prepared, bench.simulator, bench.calibration
    graph, space = prepared.graph, prepared.space
    notes = [f"{choice.label}: {choice.rule}, as measured." for choice in chosen.choices]
    notes += _quality_notes(prepared.job.quality, chosen.drops)
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
        items = "1 item is" if len(undecided) == 1 else f"{len(undecided)} items are"
        notes.append(f"{items} not decided by any plan; coverage lists them.")
    return tuple(notes)


def _lopsided_notes(
    choice: Choice, by_output: Mapping[str, Estimate], by_slice: Mapping[str, Estimate]
) -> list[str]:
    """What is said of parts that lose far more than the rest."""
    return [
        f"{choice.label}: {kind} {name} loses {number(losses[name].mean)}, "
        + (f"{times:.0f} times the mean of the others" if isfinite(times) else "the others nothing")
        + ": judge the plan there too."
        for kind, losses in (("output", by_output), ("slice", by_slice))
        for name, times in find_lopsided(losses).items()
    ]


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
