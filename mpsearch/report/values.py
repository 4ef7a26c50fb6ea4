"""What a page is made of, as plain values: cards and tables whose text the template escapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_MOST_ROWS = 40
_MOST_NAMES = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        detail: Said smaller behind it.
        colour: Of a dot before it; "" for none.
    """

    text: str
    detail: str = ""
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a column; ``name`` holds long text that may break, ``text`` short one, ``""`` figures."""

    title: str
    detail: str = ""
    kind: Literal["", "text", "name"] = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        columns: [C] heads.
        rows: [R][C] cells.
        chosen: Index of the row to mark; -1 for none.
        left_out: Rows that are not shown.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chosen: int = -1
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """One headline figure: its name, its value, and what it is held against."""

    name: str
    value: str
    why: str


def grid_of(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Grid:
    """Return a table of the first 40 of ``rows``."""
    shown = tuple(tuple(row) for row in rows[:_MOST_ROWS])
    return Grid(tuple(columns), shown, left_out=len(rows) - len(shown))


def some_names(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def grouped(value: int) -> str:
    """Return ``value`` with its thousands set apart."""
    return f"{value:,}".replace(",", "\u202f")
