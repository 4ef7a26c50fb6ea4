"""``mpsearch cost`` and ``mpsearch sensitivity``: the two tables, one stage each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli import options as opt
from mpsearch.cli.console import Json, command, number, print_json, print_table, progress_bars

if TYPE_CHECKING:
    from mpsearch.tables import Bools, Floats

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the table to this file.")]


@command
def cost(
    target: opt.Target,
    device: opt.Device = None,
    space: opt.Space = None,
    schemes: opt.Schemes = None,
    keep: opt.Keep = None,
    base: opt.Base = None,
    shape: opt.Shapes = None,
    batch: opt.Batch = None,
    model: opt.Model = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Price every layer in every scheme on a device; no data are needed."""
    from mpsearch.cost.network import estimate_costs
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.rows import cost_rows
    from mpsearch.tables import write_costs

    given = {
        "device": device,
        "space": space,
        "schemes": schemes,
        "keep": tuple(keep) if keep else None,
        "base": base,
        "shapes": shape or None,
        "batch": batch,
    }
    job, sources = opt.make_job(target, given, model=model)
    prepared = prepare(job, sources)
    costs = estimate_costs(prepared.graph, prepared.space, prepared.device, batch=job.batch)
    rows = cost_rows(costs, prepared.space, prepared.graph, costs.allowed)
    if out is not None:
        write_costs(costs, out, inputs={"structure": prepared.graph.structure_digest})
    if as_json:
        from mpsearch.cli.tables import row_json

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
    from mpsearch.cli.tables import print_rows

    _print_grid(
        "latency µs", costs.groups, costs.schemes, costs.objectives["latency_us"], costs.allowed
    )
    print_rows(f"{costs.device}, batch {costs.batch}", rows, "")


@command
def sensitivity(
    target: opt.Target,
    data: opt.Data = None,
    device: opt.Device = None,
    space: opt.Space = None,
    schemes: opt.Schemes = None,
    keep: opt.Keep = None,
    base: opt.Base = None,
    shape: opt.Shapes = None,
    loss: opt.Loss = None,
    metric: opt.Metric = None,
    batch_size: opt.BatchSize = None,
    samples: opt.Samples = None,
    budget: opt.Budget = None,
    seed: opt.Seed = None,
    threads: opt.Threads = None,
    max_memory: opt.MaxMemory = None,
    model: opt.Model = None,
    out: Out = None,
    trust_code: opt.TrustCode = False,
    as_json: Json = False,
) -> None:
    """Score how much each layer loses in each scheme."""
    from mpsearch.errors import JobError
    from mpsearch.jobs.prepare import prepare
    from mpsearch.jobs.run import calibrated_simulator
    from mpsearch.sensitivity.score import score_sensitivity
    from mpsearch.tables import write_table

    given = {
        "device": device if device is not None or target.suffix == ".toml" else "npu_200tops",
        "space": space,
        "schemes": schemes,
        "keep": tuple(keep) if keep else None,
        "base": base,
        "shapes": shape or None,
        "loss": loss,
        "metric": metric,
        "batch_size": batch_size,
        "samples": samples,
        "budget": budget,
        "seed": seed,
        "threads": threads,
        "max_memory": max_memory,
    }
    job, sources = opt.make_job(target, given, model=model, data=data, trust_code=trust_code)
    prepared = prepare(job, sources)
    if prepared.batches is None:
        raise JobError("sensitivity is measured on data; give --data")
    with progress_bars() as watch:
        simulator = calibrated_simulator(prepared, watch)
        table = score_sensitivity(
            simulator,
            metric=job.metric,
            budget=job.budget or None,
            seed=job.seed,
            progress=watch("sensitivity"),
        )
    if out is not None:
        write_table(table, out, inputs={"data": prepared.batches.digest})
    if as_json:
        print_json(
            {
                "metric": table.metric,
                "unit": table.unit,
                "groups": list(table.groups),
                "schemes": list(table.schemes),
                "values": _table_json(table.values, table.allowed),
                "stderr": _table_json(table.stderr, table.allowed),
                "evaluations": table.cost_plans,
            }
        )
        return
    _print_grid(
        f"{table.metric} ({table.unit})", table.groups, table.schemes, table.values, table.allowed
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
