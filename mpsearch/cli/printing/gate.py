"""A gate's checklist on a terminal."""

from typing import TYPE_CHECKING

from mpsearch.cli.printing.tables import print_table

if TYPE_CHECKING:
    from mpsearch.verify.gate import Gate

_STYLES = {"pass": "green", "fail": "bold red", "skipped": "dim"}


def print_gate(gate: "Gate") -> None:
    """Print the table of passes and failures, and what to take instead of a plan that fails."""
    from rich.text import Text

    from mpsearch.stats.digits import number

    rows: list[list[str | Text]] = [
        [
            check.name,
            Text(check.verdict, style=_STYLES[check.verdict]),
            number(check.value),
            number(check.limit),
            check.detail,
        ]
        for check in gate.checks
    ]
    title = f"{gate.model} in {gate.runtime}, {gate.n_samples} samples"
    print_table(title, ["check", "", "found", "limit", ""], rows, text_columns=5)
    print(gate.verdict or "all checks passed; written to gate.json")
    if gate.note:
        print(f"note: {gate.note}")
