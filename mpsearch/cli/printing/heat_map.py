"""A table of figures on a terminal, coloured by size."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpsearch.cli.console import number

if TYPE_CHECKING:
    from mpsearch.stats.estimates import Bools, Floats

_DECADES = 4.0  # that colours span
_PALE, _DARK = (255, 247, 224), (150, 30, 50)


def print_heat_map(
    title: str,
    groups: Sequence[str],
    schemes: Sequence[str],
    values: "Floats",
    allowed: "Bools",
) -> None:
    """Print group × scheme figures, darker the larger; colours need a terminal, figures do not.

    What is not allowed is a dash. Colours are logarithmic over the four largest decades.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    top = max((float(v) for v in values[allowed]), default=0.0)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    for scheme in schemes:
        table.add_column(scheme, justify="right", no_wrap=True)
    for group, row, mask in zip(groups, values.tolist(), allowed.tolist(), strict=True):
        cells = [
            Text(number(value), style=shade(value, top)) if ok else Text("–", style="dim")
            for value, ok in zip(row, mask, strict=True)
        ]
        table.add_row(Text(group), *cells)
    console.print(table)


def shade(value: float, top: float) -> str:
    """Return the rich style of a figure: pale at ten thousandth of ``top`` or less, dark at ``top``."""
    from math import log10

    if value <= 0 or top <= 0:
        return ""
    share = min(max(1 + log10(value / top) / _DECADES, 0.0), 1.0)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_PALE, _DARK, strict=True))
    ink = "white" if share > 0.55 else "black"
    return f"{ink} on rgb({red},{green},{blue})"
