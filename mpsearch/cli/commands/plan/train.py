"""``mpsearch train``: the weights of a plan, trained under its rounding."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars


@command
def train(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model that it was made for.")],
    data: Annotated[
        Path,
        typer.Option("--data", "-d", help="Data to train on, labelled or not: .npz or a folder."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Plan file to write.")],
    minutes: Annotated[float, typer.Option("--minutes", help="Time that it may take.")] = 2.0,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Steps; default: as many as the time allows.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the samples' order.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="How it trains: rate, batch, masks, ranges, features, …; repeatable.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the weights of a plan; the file is written at the end, with the best on data held back.

    What was begun goes on where the same command is given again; Ctrl-C writes the best so far.
    """
    from mpsearch.data.batches import read_batches
    from mpsearch.errors import PlanError
    from mpsearch.plan.files import read_plan, write_plan
    from mpsearch.plan.match import import_planned
    from mpsearch.plan.score import simulate_plan
    from mpsearch.plan.train import run_training
    from mpsearch.recovery.training.checkpoint import checkpoint_file
    from mpsearch.recovery.training.loop import Effort
    from mpsearch.recovery.training.recipe import read_recipe
    from mpsearch.stats.digits import with_error

    if out.suffix != ".json" or not out.parent.is_dir():
        raise PlanError(f"--out must be a .json file in a folder that exists, got {out.name}")
    recipe = read_recipe(settings or [])
    before = read_plan(plan)
    graph = import_planned(before, model)
    simulator = simulate_plan(before, graph, read_batches(data))
    with progress_bars() as watch:
        done = run_training(
            before,
            simulator,
            Effort(60 * minutes, steps),
            seed=seed,
            recipe=recipe,
            kept=checkpoint_file(out),
            tell=watch("train"),
        )
    write_plan(done.plan, out)
    is_better = done.plan is not before
    if as_json:
        print_json(
            {
                "plan": out.name,
                "unit": done.unit,
                "held_out": {"before": done.before._asdict(), "after": done.after._asdict()},
                "steps": done.steps,
                "seconds": done.seconds,
                "changed": is_better,
                "interrupted": done.interrupted,
                "notes": list(done.notes),
            }
        )
    else:
        for note in done.notes:
            print(f"note: {note}")
        losses = f"{with_error(done.before)} -> {with_error(done.after)} {done.unit}"
        result = losses if is_better else f"no better than before ({with_error(done.before)})"
        print(f"{done.steps} steps, {done.seconds:.0f} s; held-out loss {result}")
        print(f"written: {out}")
    if done.interrupted:
        raise KeyboardInterrupt(
            f"interrupted after {done.steps} steps: the best so far is in {out.name}; the same command goes on"
        )
