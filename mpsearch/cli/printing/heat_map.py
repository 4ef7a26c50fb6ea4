"""A table of figures on a terminal, coloured by size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpsearch.cli.printing.tables import print_table
from mpsearch.stats.digits import number

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
    from rich.text import Text

    top = max((float(v) for v in values[allowed]), default=0.0)
    rows: list[list[str | Text]] = [
        [
            group,
            *(
                Text(number(value), style=shade(value, top)) if ok else Text("–", style="dim")
                for value, ok in zip(row, mask, strict=True)
            ),
        ]
        for group, row, mask in zip(groups, values.tolist(), allowed.tolist(), strict=True)
    ]
    print_table(title, ["layer", *schemes], rows)


def shade(value: float, top: float) -> str:
    """Return the rich style of a figure: pale at ten thousandth of ``top`` or less, dark at ``top``."""
    from math import log10

    if value <= 0 or top <= 0:
        return ""
    share = min(max(1 + log10(value / top) / _DECADES, 0.0), 1.0)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_PALE, _DARK, strict=True))
    ink = "white" if share > 0.55 else "black"
    return f"{ink} on rgb({red},{green},{blue})"
