"""``mpsearch sensitivity``: what each layer loses in each scheme, by one metric or several."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.console import Json, print_json, progress_bars
from mpsearch.cli.job_options import Asked, read_asked
from mpsearch.cli.printing.tables import print_table
from mpsearch.stats.digits import number

if TYPE_CHECKING:
    from mpsearch.jobs.score_metrics import Scoring
    from mpsearch.stats.estimates import Bools, Floats

KEYS = (
    *(
        "model",
        "data",
        "shapes",
        "batch_axes",
        "samples",
        "device",
        "space",
        "schemes",
        "keep",
        "base",
    ),
    *("recovery", "ranges", "target", "loss", "metric", "budget", "self_test", "tolerance"),
    *("batch_size", "seed", "threads", "max_memory"),
)
"""Keys of a job that are options of this command."""

_DEVICE = "npu_200tops"  # where none is asked for


def sensitivity(
    asked: Asked,
    quality: Annotated[
        str | None,
        typer.Option("--quality", help="Drop of this instead: accuracy or MODULE:FUNCTION."),
    ] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", help="Score by all of METRIC,METRIC,… and compare.")
    ] = None,
    time_budget: Annotated[
        float | None,
        typer.Option("--time-budget", min=0, help="Seconds; what is finished then is returned."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Keep losses here; measure only what is not there."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write heat maps as one page that runs offline.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the table to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score how much each layer loses in each scheme."""
    from mpsearch.errors import JobError
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.score_metrics import score_metrics
    from mpsearch.problem.tables import write_table

    if quality is not None and "loss" in asked.values:
        raise JobError("--quality is a loss of its own; give it or --loss, not both")
    names = [name.strip() for name in compare.split(",") if name.strip()] if compare else []
    values, on_device = dict(asked.values), "device" in asked.values
    if quality is not None:
        values["loss"] = f"quality:{quality}"
    if names:
        values["metric"] = names[0]
    if asked.source.suffix == ".toml":
        on_device = True
    elif not on_device:
        values["device"] = _DEVICE
    job, sources = read_asked(replace(asked, values=values))
    prepared = prepare(job, sources)
    metrics = list(dict.fromkeys(names)) or [job.metric]
    if out is not None and len(metrics) > 1:
        raise JobError("-o writes one table; leave it or --compare out")
    with progress_bars() as watch:
        scoring = score_metrics(
            prepared,
            metrics,
            n_plans=job.self_test,
            along_front=on_device,
            time_limit_s=time_budget,
            store=store,
            watch=watch,
        )
    if out is not None:
        digest = prepared.batches.digest if prepared.batches is not None else ""
        write_table(scoring.tables[0], out, inputs={"data": digest})
    if html is not None:
        from mpsearch.report.sensitivity_page import write_sensitivity

        title = prepared.graph.name
        write_sensitivity(html, title, scoring.tables, scoring.tests, scoring.unit)
    if as_json:
        print_json(_scoring_json(scoring) | {"device": prepared.device.name})
        return
    _print_scoring(scoring)
    if not on_device:
        print(f"--device was not given: schemes and their limits are those of {_DEVICE}")


def _scoring_json(scoring: "Scoring") -> dict[str, Any]:
    """One table as it always was, or all of them with their agreement."""
    found = [_table_json(scoring, i) for i in range(len(scoring.tables))]
    if len(found) == 1:
        return found[0]
    return {
        "metrics": [table.metric for table in scoring.tables],
        "tables": found,
        "agreement": {
            "entries": scoring.entry_agreement.tolist(),
            "plans": scoring.plan_agreement.tolist(),
        },
        "notes": list(scoring.notes),
    }


def _table_json(scoring: "Scoring", i: int) -> dict[str, Any]:
    table, test = scoring.tables[i], scoring.tests[i]

    def cells(values: "Floats", allowed: "Bools") -> list[list[float | None]]:
        return [
            [float(v) if ok else None for v, ok in zip(row, mask, strict=True)]
            for row, mask in zip(values, allowed, strict=True)
        ]

    found: dict[str, Any] = {
        "metric": table.metric,
        "unit": table.unit,
        "groups": list(table.groups),
        "schemes": list(table.schemes),
        "values": cells(table.values, table.allowed),
        "stderr": cells(table.stderr, table.allowed),
        "details": {name: cells(v, table.allowed) for name, v in table.details.items()},
        "reasons": [[group, scheme, why] for (group, scheme), why in table.reasons.items()],
        "evaluations": table.cost_plans,
        "seconds": round(scoring.seconds[i], 3),
        "notes": [*scoring.notes, *table.notes],
    }
    if test is not None:
        from mpsearch.sensitivity.self_test_file import self_test_content
        from mpsearch.sensitivity.shared.additivity import additive_residual

        content = self_test_content(test, additive_residual(table, test, scoring.unit))
        found["self_test"] = content.model_dump(mode="json", exclude={"extensions"})
    return found


def _print_scoring(scoring: "Scoring") -> None:
    from mpsearch.cli.printing.heat_map import print_heat_map

    for i, table in enumerate(scoring.tables):
        title = f"{table.metric} ({table.unit})"
        print_heat_map(title, table.groups, table.schemes, table.values, table.allowed)
        for note in table.notes:
            print(note)
        test = scoring.tests[i]
        if test is not None:
            from mpsearch.report.trust import RANKING_COLUMNS, ranking_rows, verdict
            from mpsearch.sensitivity.shared.additivity import additive_residual

            print_table(
                f"{table.metric} against measured plans", RANKING_COLUMNS, ranking_rows(test)
            )
            print(verdict(test, additive_residual(table, test, scoring.unit)))
    for note in scoring.notes:
        print(note)
    if len(scoring.tables) < 2:
        return
    names = [table.metric for table in scoring.tables]
    rows = [
        [
            name,
            f"{scoring.seconds[i]:.1f}",
            number(scoring.tables[i].cost_plans),
            *(number(v, 2) for v in scoring.entry_agreement[i].tolist()),
            *(number(v, 2) for v in scoring.plan_agreement[i].tolist()),
        ]
        for i, name in enumerate(names)
    ]
    columns = ["metric", "seconds", "evaluations", *names, *(f"{name} (plans)" for name in names)]
    print_table("cost, and Spearman of entries and of random plans' sums", columns, rows)
