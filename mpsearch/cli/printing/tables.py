"""Tables on a terminal of any width: names stay whole, figures that do not fit follow below."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.text import Text

_PIPED_WIDTH = 200  # of a table that no terminal shows
_PADDING = 3  # of a column, its divider included


def print_table(
    title: str,
    columns: Sequence[str],
    rows: "Sequence[Sequence[str | Text]]",
    *,
    text_columns: int = 1,
) -> None:
    """Print a table on stdout, as wide as the terminal.

    Columns that do not fit follow in further tables, each with the names again.

    Args:
        title: Printed above.
        columns: Heads; all empty prints none.
        rows: Cells; a styled one is rich's text.
        text_columns: Columns that are text, the first ones; the others are figures.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(width=_width(), highlight=False)
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    if text_columns >= len(columns):
        console.print(_table(title, columns, cells, [None] * len(columns), text_columns))
        return
    least = [
        _least(column, [row[i] for row in cells])
        if i >= text_columns
        else min(_widest(column, [row[i] for row in cells]), max(16, console.width // 2))
        for i, column in enumerate(columns)
    ]
    for n, chosen in enumerate(_chunks(least, text_columns, console.width)):
        room = console.width - 1 - sum(least[i] + _PADDING for i in chosen)
        widths: list[int | None] = []
        for i in chosen:  # what is left goes to heads, so that they break less
            more = min(room, _widest(columns[i], [row[i] for row in cells]) - least[i])
            widths.append(least[i] + max(0, more))
            room -= max(0, more)
        console.print(
            _table(
                f"{title} (continued)" if n else title,
                [columns[i] for i in chosen],
                [[row[i] for i in chosen] for row in cells],
                widths,
                text_columns,
            )
        )


def _width() -> int | None:
    """None lets rich find the terminal's."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return None
    return _PIPED_WIDTH


def _table(
    title: str,
    columns: Sequence[str],
    rows: "Sequence[Sequence[Text]]",
    widths: Sequence[int | None],
    text_columns: int,
) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
    )
    for i, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if i < text_columns else "right"
        table.add_column(Text(column), justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _chunks(least: Sequence[int], text_columns: int, width: int) -> list[list[int]]:
    """Indices of the columns of each table: the text columns, and as many figures as fit beside them."""
    names = list(range(text_columns))
    beside = width - 1 - sum(least[i] + _PADDING for i in names)
    found, room = [list(names)], beside
    for i in range(text_columns, len(least)):
        need = least[i] + _PADDING
        if need > room and len(found[-1]) > text_columns:
            found.append(list(names))
            room = beside
        found[-1].append(i)
        room -= need
    return found


def _least(column: str, cells: "Sequence[Text]") -> int:
    """Width that neither a figure nor a word of the head breaks in."""
    return max(*(len(word) for word in [*column.split(), ""]), *(c.cell_len for c in cells), 0)


def _widest(column: str, cells: "Sequence[Text]") -> int:
    return max(len(column), *(cell.cell_len for cell in cells), 0)
