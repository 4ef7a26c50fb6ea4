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
    as_json: Json = False,
) -> None:
    """Price every layer in every scheme on a device; no data are needed."""
    from mpsearch.figures.plan_row import cost_rows
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.price import price
    from mpsearch.problem.tables import write_costs

    job, sources = read_asked(asked)
    prepared = prepare(job, sources)
    if explain is not None:
        from mpsearch.cost.explain import explain_layer
        from mpsearch.cost.phases import read_phases

        graph, phases = prepared.graph, read_phases(job.tokens or None, job.mix or None)
        where = (graph, prepared.space, prepared.device, explain, phases)
        _print_explained(explain, explain_layer(*where, batch=job.batch), as_json=as_json)
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
