"""Sensitivity: which layers are fragile in which scheme, how sure that is, and what other metrics say."""

from typing import Any

from dash import Dash, Input, Output, State, html
from dash.exceptions import PreventUpdate

from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown
from mpsearch.dashboard.parts import blank, field, figure, select, table_of, themed, view
from mpsearch.figures.layers import sensitivity_heatmap
from mpsearch.figures.ranges import ranges_figure, say_ranges
from mpsearch.figures.sensitivities import (
    errors_figure,
    order_groups,
    ranks_figure,
    roles_of,
    take_groups,
)
from mpsearch.figures.words import say_sensitivity
from mpsearch.problem.front import Point
from mpsearch.shown import shorten
from mpsearch.stats.digits import number

NAME, TITLE = "sensitivity", "Sensitivity"
_ALL = "all roles"
_NO_OTHER = "–"
_MOST_PAIRS = 60


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "How sensitive each layer is",
        "Predicted: one group at one scheme, the rest at full precision. Darker (in a dark page, brighter) is more fragile.",
        html.Div(
            [
                field(
                    "Order",
                    select(
                        "sensitivity-order",
                        options=["schedule", "fragility", "role"],
                        value="schedule",
                    ),
                ),
                field("Role", select("sensitivity-role", options=[_ALL], value=_ALL)),
                field("Errors of", select("sensitivity-scheme")),
                field("Against", select("sensitivity-other", options=[_NO_OTHER], value=_NO_OTHER)),
            ],
            className="row",
        ),
        figure(
            "sensitivity-map",
            "Heat map: sensitivity of each group at each scheme",
            "Grey with a cross: not allowed, the hover says why. A ring marks the chosen plan's scheme.",
        ),
        html.H3("How sure that is"),
        figure("sensitivity-errors", "The most fragile groups of one scheme with standard errors"),
        html.H3("What other metrics say"),
        html.P(id="sensitivity-others", className="note"),
        html.Div(
            figure("sensitivity-ranks", "Ranks of entries by two metrics"), id="sensitivity-ranked"
        ),
        html.H3("Interactions"),
        html.Div(id="sensitivity-pairs"),
        html.H3("Ranges"),
        html.P(id="sensitivity-unseen", className="note"),
        html.Div(
            figure(
                "sensitivity-ranges",
                "Histogram of each layer's input, with the limits of schemes",
                "A row a layer: darker, more elements of that magnitude. Marks: the largest magnitude that a scheme "
                "holds; what lies to the right of one is cut off.",
            ),
            id="sensitivity-seen",
        ),
    )


def register(app: Dash, runs: Runs) -> None:
    """Make the view answer."""
    register_ranges(app, runs)

    @app.callback(
        Output("sensitivity-role", "options"),
        Output("sensitivity-role", "value"),
        Output("sensitivity-scheme", "options"),
        Output("sensitivity-scheme", "value"),
        Output("sensitivity-other", "options"),
        Output("sensitivity-other", "value"),
        Input("run", "value"),
        Input("version", "data"),
        State("sensitivity-role", "value"),
        State("sensitivity-scheme", "value"),
        State("sensitivity-other", "value"),
    )
    def offer(key: str, version: str, role: str, scheme: str, other: str) -> Any:
        shown = runs.read(key or "")
        if shown is None or shown.table is None or shown.graph is None:
            raise PreventUpdate
        roles = [_ALL, *dict.fromkeys(roles_of(shown.graph))]
        schemes, details = list(shown.table.schemes), list(shown.table.details)
        return (
            roles,
            role if role in roles else _ALL,
            schemes,
            scheme if scheme in schemes else schemes[min(2, len(schemes) - 1)],
            [_NO_OTHER, *details],
            other if other in details else next(iter(details), _NO_OTHER),
        )

    @app.callback(
        Output("sensitivity-missing", "children"),
        Output("sensitivity-body", "hidden"),
        Output("sensitivity-map", "figure"),
        Output("sensitivity-map-words", "children"),
        Output("sensitivity-errors", "figure"),
        Output("sensitivity-errors-words", "children"),
        Output("sensitivity-ranks", "figure"),
        Output("sensitivity-others", "children"),
        Output("sensitivity-ranked", "hidden"),
        Output("sensitivity-pairs", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
        Input("screen", "data"),
        Input("sensitivity-order", "value"),
        Input("sensitivity-role", "value"),
        Input("sensitivity-scheme", "value"),
        Input("sensitivity-other", "value"),
    )
    def draw(view: str, key: str, version: str, chosen: str, screen: Any, *picked: str) -> Any:
        if view != NAME:
            raise PreventUpdate
        shown = runs.read(key or "")
        missing = lacks(shown, "graph", "table")
        if missing or shown is None or shown.table is None:
            return missing, True, blank(), "", blank(), "", blank(), "", True, None
        order, role, scheme, other = picked
        heat, words = _map(shown, chosen or "", order, role)
        table, allowed = shown.table, shown.allowed
        assert allowed is not None
        s = table.schemes.index(scheme) if scheme in table.schemes else 0
        errors = themed(errors_figure(table, allowed, s), screen)
        noise = _say_noise(shown, s)
        compared = other in table.details
        ranks = themed(ranks_figure(table, other, allowed), screen) if compared else blank()
        others = (
            f"Entries ranked by {table.metric} and by its detail {other!r}: on the dashed line both agree."
            if compared
            else "This table holds no other metric to compare with."
        )
        pairs = _pairs(shown)
        return (
            "",
            False,
            themed(heat, screen),
            words,
            errors,
            noise,
            ranks,
            others,
            not compared,
            pairs,
        )


def _map(shown: Shown, chosen: str, order: str, role: str) -> tuple[Any, str]:
    table, allowed = shown.table, shown.allowed
    assert table is not None
    assert allowed is not None
    assert shown.graph is not None
    index = order_groups(
        table, roles_of(shown.graph), order or "schedule", "" if role == _ALL else role or ""
    )
    part = take_groups(table, index)
    point = shown.points.get(chosen)
    assignment = [point.assignment[g] for g in index.tolist()] if point is not None else None
    heat = sensitivity_heatmap(
        part, allowed=allowed[index], reasons=shown.reasons, assignment=assignment
    )
    return heat, say_sensitivity(part, allowed[index])


def _say_noise(shown: Shown, scheme: int) -> str:
    table, allowed = shown.table, shown.allowed
    assert table is not None
    assert allowed is not None
    known = allowed[:, scheme] & (table.values[:, scheme] > 0)
    if not known.any():
        return "Nothing is lost in this scheme, or it is allowed nowhere."
    ratio = table.stderr[known, scheme] / table.values[known, scheme]
    ratio.sort()
    middle = float(ratio[len(ratio) // 2])
    return (
        f"In {table.schemes[scheme]} half of the groups' standard errors are above {number(100 * middle, 2)} % of "
        "their value."
    )


def _pairs(shown: Shown) -> Any:
    table = shown.table
    assert table is not None
    if table.pair_terms is None or not len(table.edges):
        return html.P(
            "No interactions were measured; `--metric interactions` does.", className="note"
        )
    rows = []
    for (i, j), terms in zip(table.edges.tolist(), table.pair_terms, strict=True):
        a, b = divmod(int(abs(terms).argmax()), terms.shape[1])
        rows.append((abs(float(terms[a, b])), i, j, a, b, float(terms[a, b])))
    rows.sort(reverse=True)
    cells = [
        [table.groups[i], table.schemes[a], table.groups[j], table.schemes[b], number(value)]
        for _, i, j, a, b, value in rows[:_MOST_PAIRS]
    ]
    columns = ["layer", "in", "and layer", "in", f"#more than alone, {table.unit}"]
    return table_of(columns, cells, "The strongest interaction of each pair of neighbours")


def register_ranges(app: Dash, runs: Runs) -> None:
    """Make the histograms of ranges answer."""

    @app.callback(
        Output("sensitivity-unseen", "children"),
        Output("sensitivity-seen", "hidden"),
        Output("sensitivity-ranges", "figure"),
        Output("sensitivity-ranges-words", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
        Input("screen", "data"),
    )
    def look(view: str, key: str, version: str, chosen: str, screen: Any) -> Any:
        shown = runs.read(key or "")
        if view != NAME or shown is None or lacks(shown, "graph", "table"):
            raise PreventUpdate
        layers = shown.report.ranges if shown.report is not None else ()
        if not layers:
            said = [
                "Nobody looked at the ranges: ",
                html.Code(f"mpsearch ranges {shorten(shown.name, 60)} --model MODEL --data DATA"),
                " does.",
            ]
            return said, True, blank(), ""
        point = shown.points.get(chosen or "")
        return (
            "",
            False,
            themed(ranges_figure(layers, _schemes_of(shown, point)), screen),
            say_ranges(layers),
        )


def _schemes_of(shown: Shown, point: Point | None) -> dict[str, str]:
    """Layer to its scheme in a plan."""
    if point is None or shown.graph is None or shown.table is None:
        return {}
    return {
        shown.graph.layers[i].name: shown.table.schemes[s]
        for group, s in zip(shown.graph.groups, point.assignment, strict=True)
        for i in group.layers
    }
