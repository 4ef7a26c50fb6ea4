"""``mpsearch recover``: a plan's weights changed without training, so that it loses less."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars
from mpsearch.cli.printing.tables import print_table

_NAMED = 5  # layers that are named


@command
def recover(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model that it was made for.")],
    data: Annotated[
        Path,
        typer.Option("--data", "-d", help="Data of the model, no labels needed: .npz or a folder."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The recovered plan, a new file.")],
    methods: Annotated[
        str,
        typer.Option(
            "--methods", help="auto, or names joined by commas; see `mpsearch list recoveries`."
        ),
    ] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0.0, help="Begin nothing more after so many minutes."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the split of the data.")] = 0,
    loss: Annotated[
        str | None,
        typer.Option("--loss", help="kl, nll, mse, ctc, …; default: read from model and data."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recover what a plan's rounding and pruning lose: part of the data recovers, the other judges."""
    from mpsearch.data.batches import read_batches
    from mpsearch.deadline import deadline_in
    from mpsearch.plan.files import read_plan, write_plan
    from mpsearch.plan.match import import_planned
    from mpsearch.plan.recover import measure_recovery
    from mpsearch.plan.score import simulate_plan
    from mpsearch.recovery.task import parse_methods
    from mpsearch.stats.digits import with_error

    if methods != "auto":
        parse_methods(methods)  # a mistake is said before anything runs
    deadline = deadline_in(None if minutes is None else 60 * minutes)
    given = read_plan(plan)
    graph = import_planned(given, model)
    simulator = simulate_plan(given, graph, read_batches(data), loss=loss)
    with progress_bars() as watch:
        found = measure_recovery(
            given,
            simulator,
            methods=methods,
            seed=seed,
            progress=watch("recover"),
            deadline=deadline,
        )
    write_plan(found.plan, out)
    result = found.result
    tried = {"+".join(names): loss for names, loss in result.tried.items()}
    if as_json:
        from mpsearch.cli.printing.run import estimates_json

        losses = {"before": result.before, "after": result.after}
        print_json(
            {
                "plan": str(out),
                "methods": list(result.methods),
                "unit": simulator.unit,
                "judged_on": result.judged_on,
                **estimates_json({name: value for name, value in losses.items() if value}),
                "tried": estimates_json(tried),
                "layers_changed": len(found.plan.changes),
                "layers_left": list(result.left),
            }
        )
        return
    rows = [] if result.before is None else [["as it was", with_error(result.before)]]
    rows += [[name.replace("+", ", "), with_error(value)] for name, value in tried.items()]
    title = f"loss on {result.judged_on} samples that took no part, {simulator.unit}"
    if result.left:
        named = ", ".join(result.left[:_NAMED]) + (", …" if len(result.left) > _NAMED else "")
        print(
            f"{len(result.left)} layers keep weights that are rounded plainly, inside loops, recurrent or fused: {named}"
        )
    print_table(f"{out.name}: {', '.join(result.methods) or 'as it was'}", ["tried", title], rows)
