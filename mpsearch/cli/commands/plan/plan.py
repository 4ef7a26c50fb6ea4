"""``mpsearch plan``: choose a plan from a run, show one, compare two, and ask what a target makes of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.commands.plan.diff import diff
from mpsearch.cli.commands.plan.lint import lint
from mpsearch.cli.console import Json, command, print_json, progress_bars
from mpsearch.cli.job_options import Asked, add_job_command
from mpsearch.cli.printing.tables import print_table
from mpsearch.stats.digits import number, with_error

if TYPE_CHECKING:
    from mpsearch.plan.plan import Plan

app = typer.Typer(
    help="Choose a plan from a run; show, compare and check plans.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


KEYS = (
    *("model", "data"),
    *("limits.latency_us", "limits.weight_bytes", "limits.effective_bits", "limits.loss"),
    *("limits.energy_uj", "limits.memory_bytes", "limits.phase_us"),
    "confidence",
)
"""Keys of a job that are options of ``plan choose``."""


def choose(
    asked: Asked,
    out: Annotated[Path, typer.Option("--out", "-o", help="Plan file to write.")],
    knee: Annotated[bool, typer.Option("--knee", help="Take the knee within the limits.")] = False,
    as_json: Json = False,
) -> None:
    """Choose the best point of a run's front within limits, and write its plan.

    Among the points that the run measured; with --model and --data among all of the front, and the
    chosen one is measured.
    """
    from mpsearch.errors import JobError
    from mpsearch.jobs.choose_plan import Wanted, choose_measured, choose_written
    from mpsearch.runs.job_tables import Limits

    if (asked.model is None) != (asked.data is None):
        raise JobError("--model and --data must be given together, or neither")
    limits = Limits.model_validate(asked.values.get("limits", {})).given()
    wanted = Wanted(limits, knee, asked.values.get("confidence"))
    if asked.model is None or asked.data is None:
        plan = choose_written(asked.source, out, wanted)
    else:
        with progress_bars() as watch:
            plan = choose_measured(
                asked.source,
                out,
                wanted,
                model=asked.model,
                data=asked.data,
                trust_code=asked.trust_code,
                watch=watch,
            )
    if as_json:
        print_json(_plan_json(plan) | {"file": out.name})
        return
    _print_figures(plan)
    print(f"written: {out}")


add_job_command(
    app, "choose", choose, KEYS, Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
)


@app.command("show")
@command
def show(
    files: Annotated[list[Path], typer.Argument(help="Plan files.")], as_json: Json = False
) -> None:
    """Show what plans decide, and their predicted and measured figures."""
    from mpsearch.plan.files import read_plan

    plans = [read_plan(path) for path in files]
    if as_json:
        print_json([_plan_json(plan) for plan in plans])
        return
    for plan in plans:
        _print_figures(plan)
        rows = [
            [decision.site.node, ", ".join(decision.site.weights) or "–", decision.scheme]
            for decision in plan.decisions
        ]
        print_table("decisions", ["layer", "weights", "scheme"], rows, text_columns=3)
        if plan.changes:
            changed = [
                [
                    change.site.node,
                    ", ".join(change.methods) or "–",
                    number(change.error_before),
                    number(change.error_after),
                ]
                for change in plan.changes
            ]
            columns = ["layer", "changed by", "error before", "error after"]
            print_table("changed layers", columns, changed, text_columns=2)
        for name, why in plan.coverage.undecided.items():
            print(f"not decided: {name}: {why}")


app.command("diff")(diff)
app.command("lint")(lint)


def _print_figures(plan: "Plan") -> None:
    counts: dict[str, int] = {}
    for decision in plan.decisions:
        counts[decision.scheme] = counts.get(decision.scheme, 0) + 1
    mix = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    rows = [["layers", mix], ["effective bits", number(plan.coverage.effective_bits)]]
    for word, values in (("predicted", plan.predicted), ("measured", plan.measured)):
        rows += [
            [f"{word} {name}", with_error(value)]
            for name, value in values.items()
            if name != "effective_bits"
        ]
    rows.append(["base", plan.base])
    for word, names in (("recovery", plan.recovery), ("transforms", plan.transforms)):
        if names:
            rows.append([word, ", ".join(names)])
    if plan.device:
        rows.append(["device", f"{plan.device}, batch {plan.batch}"])
    print_table(f"plan for {plan.model}", ["", ""], rows, text_columns=2)


def _plan_json(plan: "Plan") -> dict[str, Any]:
    from mpsearch.cli.printing.run import estimates_json

    return {
        "model": plan.model,
        "base": plan.base,
        "device": plan.device,
        "batch": plan.batch,
        "effective_bits": plan.coverage.effective_bits,
        "predicted": estimates_json(plan.predicted),
        "measured": estimates_json(plan.measured),
        "decisions": [
            {"node": d.site.node, "weights": list(d.site.weights), "scheme": d.scheme}
            for d in plan.decisions
        ],
        "recovery": list(plan.recovery),
        "transforms": list(plan.transforms),
        "changes": [
            {
                "node": change.site.node,
                "methods": list(change.methods),
                "error_before": change.error_before,
                "error_after": change.error_after,
            }
            for change in plan.changes
        ],
        "undecided": dict(plan.coverage.undecided),
    }
