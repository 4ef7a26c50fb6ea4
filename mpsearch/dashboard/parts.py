"""Pieces that pages are made of. Every string of a run goes in as text: nothing here reads markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html

from mpsearch.figures.theme import template
from mpsearch.report.values import Cell, Column, Grid
from mpsearch.shown import visible

_MOST_ROWS = 400
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["autoScale2d", "toImage"],
    "scrollZoom": False,
}


def view(name: str, title: str, lead: str, *children: Any) -> Any:
    """Return the section of a view: its title, what it is for, what is missing, and its content."""
    return html.Section(
        [
            html.H2(title, id=f"{name}-title", tabIndex="-1"),
            html.P(lead, className="lead"),
            html.P(id=f"{name}-missing", className="missing", role="status"),
            html.Div(list(children), id=f"{name}-body"),
        ],
        id=f"{name}-view",
        hidden=True,
        **{"aria-labelledby": f"{name}-title"},
    )


def figure(name: str, title: str, caption: str = "", **config: Any) -> Any:
    """Return a figure that is drawn later, with room for what it shows in words."""
    return html.Figure(
        [
            html.Div(
                dcc.Graph(id=name, figure=blank(), config={**_CONFIG, **config}),
                role="img",
                **{"aria-label": title, "aria-describedby": f"{name}-words"},
            ),
            html.Figcaption(caption),
            html.Details(
                [html.Summary("This figure in words"), html.P(id=f"{name}-words")],
                className="words",
            ),
        ]
    )


def blank() -> dict[str, Any]:
    """Return a figure before it is drawn."""
    axis = {"visible": False}
    return {"data": [], "layout": {"xaxis": axis, "yaxis": axis, "paper_bgcolor": "rgba(0,0,0,0)"}}


def themed(drawn: Any, screen: Mapping[str, Any] | None) -> Any:
    """Return a plotly figure in the colours and for the width of the reader's screen."""
    screen = screen or {}
    drawn.update_layout(template=template(dark=bool(screen.get("dark"))))
    narrow = (drawn.layout.meta or {}).get("narrow", {}) if screen.get("narrow") else {}
    for path, value in narrow.items():
        drawn.update_layout({path.replace(".", "_"): value})
    drawn.update_layout(meta=None)
    if screen.get("narrow"):
        drawn.update_layout(dragmode=False, margin={"l": 44, "r": 8})
    return drawn


def field(text: str, control: Any, kind: str = "") -> Any:
    """Return a control under its label; ``kind`` ``long`` has more room."""
    return html.Label([html.Span(text), control], className=f"field {kind}".strip())


def select(name: str, **given: Any) -> Any:
    """Return a list to choose one from."""
    defaults: dict[str, Any] = {"clearable": False, "searchable": True, "options": []}
    return dcc.Dropdown(id=name, **(defaults | given))


def table_of(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", marked: int = -1
) -> Any:
    """Return a table of text; numbers stand to the right in columns whose head begins with ``#``."""
    heads = [Column(c.removeprefix("#"), kind="" if c.startswith("#") else "name") for c in columns]
    cells = [[c if isinstance(c, Cell) else Cell(str(c)) for c in row] for row in rows]
    shown = tuple(tuple(row) for row in cells[:_MOST_ROWS])
    return grid(Grid(tuple(heads), shown, marked, len(cells) - len(shown)), caption)


def grid(found: Grid, caption: str = "") -> Any:
    """Return a table of the report."""
    heads = [
        html.Th(
            [visible(c.title), *([html.Small(visible(c.detail))] if c.detail else [])],
            className=c.kind,
            scope="col",
        )
        for c in found.columns
    ]
    rows = []
    for i, row in enumerate(found.rows):
        cells = [
            html.Td(_cell(cell), className=column.kind, **{"data-title": visible(column.title)})
            for cell, column in zip(row, found.columns, strict=True)
        ]
        rows.append(html.Tr(cells, className="chosen" if i == found.chosen else ""))
    if found.left_out:
        rows.append(html.Tr(html.Td(f"and {found.left_out} more", colSpan=len(heads))))
    made = [html.Thead(html.Tr(heads)), html.Tbody(rows)]
    if caption:
        made.insert(0, html.Caption(caption))
    return html.Div(html.Table(made), className="wide")


def _cell(cell: Cell) -> list[Any]:
    parts: list[Any] = []
    if cell.colour:
        parts.append(html.I(className="dot", style={"background": cell.colour}))
    parts.append(html.Bdi(visible(cell.text)[:300]))
    if cell.detail:
        parts.append(html.Small(visible(cell.detail)[:300]))
    return parts
