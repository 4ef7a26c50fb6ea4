"""``mpsearch cost``: what each layer costs in each scheme."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.console import Json, print_json
from mpsearch.cli.job_options import Asked, read_asked
from mpsearch.cli.printing.tables import print_table
from mpsearch.stats.digits import number

if TYPE_CHECKING:
    from mpsearch.cost.explain import Explained
    from mpsearch.cost.listing import Executed
    from mpsearch.jobs.prepare import Prepared
    from mpsearch.stats.estimates import Bools, Floats

KEYS = (
    "model",
    "shapes",
    "batch_axes",
    "device",
    "space",
    "schemes",
    "keep",
    "base",
    "target",
    "batch",
    "tokens",
    "mix",
)
"""Keys of a job that are options of this command."""


def cost(
    asked: Asked,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the table to this file.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="LAYER",
            help="Say of one layer what it computes, moves and waits for, scheme by scheme.",
        ),
    ] = None,
    executed: Annotated[
        str | None,
        typer.Option(
            "--executed",
            metavar="SCHEME|PLAN.json",
            help="List what runs: kernels, what lies between them, other operators.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Price every layer in every scheme on a device; no data are needed."""
    from mpsearch.figures.plan_row import cost_rows
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.price import price
    from mpsearch.problem.tables import write_costs

    job, sources = read_asked(asked)
    prepared = prepare(job, sources)
    if explain is not None or executed is not None:
        _print_parts(prepared, explain, executed, as_json)
        return
    costs = price(prepared)
    rows = cost_rows(costs, prepared.space, prepared.graph, costs.allowed)
    if out is not None:
        write_costs(costs, out, inputs={"structure": prepared.graph.structure_digest})
    if as_json:
        from mpsearch.cli.printing.run import row_json

        values = {name: _table_json(v, costs.allowed) for name, v in costs.objectives.items()}
        print_json(
            {
                "device": costs.device,
                "batch": costs.batch,
                "groups": list(costs.groups),
                "schemes": list(costs.schemes),
                "objectives": values,
                "rows": [row_json(row) for row in rows],
            }
        )
        return
    from mpsearch.cli.printing.run import print_rows

    for name, latency in costs.objectives.items():
        kind, _, phase = name.partition(":")
        if kind == "latency_us":
            title = f"latency µs, {phase}" if phase else "latency µs"
            _print_grid(title, costs.groups, costs.schemes, latency, costs.allowed)
    print_rows(f"{costs.device}, batch {costs.batch}", rows, "")


def _print_parts(
    prepared: "Prepared", explain: str | None, executed: str | None, as_json: bool
) -> None:
    from mpsearch.cost.explain import explain_layer
    from mpsearch.cost.listing import list_executed
    from mpsearch.cost.phases import read_phases
    from mpsearch.errors import JobError

    job = prepared.job
    if explain is not None and executed is not None:
        raise JobError("one of --explain and --executed must be given, got both")
    phases = read_phases(job.tokens or None, job.mix or None)
    where = (prepared.graph, prepared.space, prepared.device)
    if explain is not None:
        found = explain_layer(*where, explain, phases, batch=job.batch)
        _print_explained(explain, found, as_json=as_json)
    elif executed is not None:
        chosen = _assignment(prepared, executed)
        runs = list_executed(*where, chosen, phases, batch=job.batch)
        _print_executed(executed, runs, as_json=as_json)


def _assignment(prepared: "Prepared", asked: str) -> list[int]:
    """[G] schemes of a plan's file, or one scheme wherever it is allowed and the base elsewhere."""
    from mpsearch.jobs.price import price

    graph, space = prepared.graph, prepared.space
    if asked.endswith(".json"):
        from mpsearch.plan.files import read_plan
        from mpsearch.plan.match import plan_assignment

        return [int(s) for s in plan_assignment(read_plan(Path(asked)), graph, space)]
    index, base = space.index(asked), space.index(space.base)
    return [index if ok else base for ok in price(prepared).allowed[:, index].tolist()]


def _print_executed(asked: str, runs: "tuple[Executed, ...]", *, as_json: bool) -> None:
    total = {run.phase: sum(r.us for r in runs if r.phase == run.phase) for run in runs}
    if as_json:
        print_json({"of": asked, "latency_us": total, "executed": [asdict(run) for run in runs]})
        return
    cells = [
        [f"{run.phase} {run.kind}".strip(), run.name, run.runs_in, number(run.us)] for run in runs
    ]
    said = ", ".join(f"{phase} {number(us)} µs".strip() for phase, us in total.items())
    heads = ["what", "of", "runs in", "µs"]
    print_table(f"{asked}: {said}", heads, cells, text_columns=3)


def _print_explained(layer: str, rows: "tuple[Explained, ...]", *, as_json: bool) -> None:
    if as_json:
        print_json({"layer": layer, "schemes": [asdict(row) for row in rows]})
        return
    levels = list(rows[0].traffic) if rows else []
    cells = [
        [
            f"{row.phase} {row.scheme}".strip(),
            row.bound,
            number(row.flops / 1e6),
            *(number(us) for us in (row.latency_us, row.compute_us, row.memory_us)),
            f"{row.busy:.1%}",
            *(" + ".join(number(part / 1024) for part in row.traffic[name]) for name in levels),
        ]
        for row in rows
    ]
    heads = ["scheme", "bound by", "MFLOP", "latency µs", "compute µs", "memory µs", "of peak"]
    print_table(
        f"{layer}: KiB read of the left and the right operand + written, by level",
        [*heads, *levels],
        cells,
        text_columns=2,
    )


def _table_json(values: "Floats", allowed: "Bools") -> list[list[Any]]:
    """[G, S] numbers, null where not allowed."""
    return [
        [float(v) if ok else None for v, ok in zip(row, mask, strict=True)]
        for row, mask in zip(values, allowed, strict=True)
    ]


def _print_grid(
    title: str,
    groups: tuple[str, ...],
    schemes: tuple[str, ...],
    values: "Floats",
    allowed: "Bools",
) -> None:
    rows = [
        [group, *(number(v) if ok else "–" for v, ok in zip(row, mask, strict=True))]
        for group, row, mask in zip(groups, values.tolist(), allowed.tolist(), strict=True)
    ]
    print_table(title, ["layer", *schemes], rows)
