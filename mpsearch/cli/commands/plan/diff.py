"""``mpsearch plan diff``: two plans of one model side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.printing.tables import print_table
from mpsearch.stats.digits import number, with_error

if TYPE_CHECKING:
    from mpsearch.plan.diff import PlanDiff


@command
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Plan file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another plan of the same model.")],
    as_json: Json = False,
) -> None:
    """Show which layers differ between two plans, and what that buys."""
    from mpsearch.plan.diff import diff_plans
    from mpsearch.plan.files import read_plan

    found = diff_plans(read_plan(first), read_plan(second))
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, first.name, second.name)


def _print(found: "PlanDiff", first: str, second: str) -> None:
    rows = [
        [
            layer.node,
            f"{layer.before}, defined otherwise" if layer.redefined else layer.before,
            layer.after,
            ", ".join(layer.methods_before) or "–",
            ", ".join(layer.methods_after) or "–",
        ]
        for layer in found.layers
    ]
    columns = ["layer", "in A", "in B", "changed in A by", "changed in B by"]
    print_table(f"{found.model}: {len(found.layers)} layers differ", columns, rows, text_columns=5)
    print(f"{found.same} layers are the same")
    bits = found.effective_bits
    figures = [["effective bits", number(bits[0]), number(bits[1]), number(bits[1] - bits[0]), ""]]
    for word, values in (("predicted", found.predicted), ("measured", found.measured)):
        figures += [
            [
                f"{word} {name}",
                with_error(figure.before),
                with_error(figure.after),
                with_error(figure.difference),
                "" if figure.is_comparable else "other unit, data, device or batch",
            ]
            for name, figure in values.items()
            if name != "effective_bits"
        ]
    print_table("what it buys", ["", f"A: {first}", f"B: {second}", "B - A", ""], figures)
    for name, (left, right) in found.fields.items():
        print(f"{name}: {left} in A, {right} in B")
