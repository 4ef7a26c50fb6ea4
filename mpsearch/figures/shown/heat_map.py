"""Sensitivities as colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.problem.tables import Table
from mpsearch.stats.digits import number
from mpsearch.stats.estimates import Bools, Floats

_DECADES = 5  # colours tell no more apart


@dataclass(frozen=True, slots=True)
class ShownTable:
    """A table of sensitivities.

    Attributes:
        groups: [G] names.
        schemes: [S] names.
        colour: [G, S] logarithm of the value; zero and less take the lowest colour.
        allowed: [G, S].
        chosen: [G] scheme to ring; () for none.
        ticks: (colour, text) of the colour bar.
    """

    groups: tuple[str, ...]
    schemes: tuple[str, ...]
    colour: Floats
    allowed: Bools
    chosen: tuple[int, ...]
    ticks: tuple[tuple[float, str], ...]

    @property
    def refused(self) -> list[tuple[int, int]]:
        """(group, scheme) indices of what is not allowed."""
        return [(g, s) for g, s in np.argwhere(~self.allowed).tolist()]


def show_table(
    table: Table, *, allowed: Bools | None = None, chosen: Sequence[int] | None = None
) -> ShownTable:
    """Return what the heat map of ``table`` shows.

    Args:
        table: The sensitivities.
        allowed: [G, S] instead of the table's.
        chosen: [G] schemes to ring.
    """
    allowed = table.allowed if allowed is None else allowed
    colour, ticks = _log_colour(table.values, allowed)
    return ShownTable(
        tuple(table.groups),
        tuple(table.schemes),
        colour,
        allowed,
        tuple(chosen or ()),
        tuple(ticks),
    )


def _log_colour(values: Floats, allowed: Bools) -> tuple[Floats, list[tuple[float, str]]]:
    """[G, S] logarithms to colour by, and the (position, text) of the colour bar's ticks.

    Values under the lowest colour, zero and negative ones included, take the lowest colour.
    """
    positive = values[allowed & (values > 0)]
    if not positive.size:
        return np.zeros_like(values), [(0.0, "0")]
    top = float(positive.max())
    low = max(float(positive.min()), top * 10.0**-_DECADES)
    colour = np.log10(np.clip(values, low, top))
    decades = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(top))) + 1)
    ticks = [(float(d), number(10.0**d, 1)) for d in decades]
    if len(ticks) < 2:
        ticks = [(float(np.log10(v)), number(v, 2)) for v in (low, top)]
    return colour, ticks
