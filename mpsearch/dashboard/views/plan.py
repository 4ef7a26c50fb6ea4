"""Plan: the chosen point layer by layer, as strips, as a graph, as a table; and what differs from another."""

from collections.abc import Sequence
from typing import Any

import dash_cytoscape
import networkx
from dash import Dash, Input, Output, State, html
from dash.exceptions import PreventUpdate

from mpsearch.dashboard.choice import options_of
from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown
from mpsearch.dashboard.parts import blank, field, figure, select, table_of, themed, view
from mpsearch.figures.layers import plan_figure
from mpsearch.figures.reasons import scheme_reasons
from mpsearch.figures.theme import is_hatched, plain_short_names, scheme_colours
from mpsearch.figures.words import say_shares
from mpsearch.report.values import Cell, grouped
from mpsearch.shown import shorten
from mpsearch.stats.digits import number

NAME, TITLE = "plan", "Plan"
_ROWS = 11  # of a column of the graph
_WIDTH = 230.0


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "The chosen plan, layer by layer",
        "Where parameters, operations, time and predicted loss sit, and why each layer has its scheme.",
        figure(
            "plan-strips",
            "The chosen plan as strips of layers",
            "The same layers several times, at widths that stand for different things. Hatched tiles are sparse.",
        ),
        html.H3("The graph"),
        html.P(
            "Layers from top to bottom, then on in the next column; drag to move, pinch or scroll to zoom, click a layer to change "
            "it under Choose and export. Thick dashed edges are boundaries: the schemes on both sides differ. The table "
            "below says the same in text.",
            className="note",
        ),
        html.Div(id="plan-legend", className="legend"),
        html.Div(
            dash_cytoscape.Cytoscape(
                id="plan-network",
                elements=[],
                layout={"name": "preset", "fit": True},
                style={"width": "100%", "height": "100%"},
                minZoom=0.05,
                maxZoom=4,
                boxSelectionEnabled=False,
            ),
            className="network",
            role="img",
            **{"aria-label": "The model's layers as a graph, coloured by scheme; see the table"},
        ),
        html.H3("Decisions"),
        field("Compared with", select("plan-other", clearable=True, placeholder="no other plan")),
        html.P(id="plan-differs", className="note", role="status"),
        html.Div(id="plan-table"),
    )


def register(app: Dash, runs: Runs) -> None:
    """Make the view answer."""

    @app.callback(
        Output("plan-other", "options"),
        Input("run", "value"),
        Input("version", "data"),
    )
    def offer(key: str, version: str) -> Any:
        shown = runs.read(key or "")
        return [] if shown is None or shown.state == "damaged" else options_of(shown)

    @app.callback(
        Output("plan-missing", "children"),
        Output("plan-body", "hidden"),
        Output("plan-strips", "figure"),
        Output("plan-strips-words", "children"),
        Output("plan-network", "elements"),
        Output("plan-network", "stylesheet"),
        Output("plan-legend", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
        Input("screen", "data"),
    )
    def draw(view: str, key: str, version: str, chosen: str, screen: Any) -> Any:
        if view != NAME:
            raise PreventUpdate
        shown = runs.read(key or "")
        missing = lacks(shown, "graph", "costs", "table", "chosen", chosen=chosen or "")
        if missing or shown is None or shown.graph is None or shown.table is None:
            return missing, True, blank(), "", [], [], []
        point, schemes = shown.points[chosen], shown.table.schemes
        strips = plan_figure(
            shown.graph, schemes, point.assignment, costs=shown.costs, table=shown.table
        )
        words = say_shares(shown.graph, schemes, point.assignment, shown.costs, shown.table)
        dark = bool((screen or {}).get("dark"))
        return (
            "",
            False,
            themed(strips, screen),
            words,
            network(shown, point.assignment),
            _style(schemes, dark),
            _legend(schemes, point.assignment),
        )

    @app.callback(
        Output("plan-table", "children"),
        Output("plan-differs", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
        Input("plan-other", "value"),
    )
    def tell(view: str, key: str, version: str, chosen: str, other: str) -> Any:
        shown = runs.read(key or "")
        if view != NAME or lacks(shown, "graph", "costs", "table", "chosen", chosen=chosen or ""):
            raise PreventUpdate
        assert shown is not None
        against = shown.points[other].assignment if other in shown.points else None
        return decisions(shown, shown.points[chosen].assignment, against)

    @app.callback(
        Output("take-layer", "value"),
        Output("place", "hash"),
        Input("plan-network", "tapNodeData"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def tap(node: Any, view: str) -> Any:
        if not node or view != NAME:
            raise PreventUpdate
        return str(node.get("group", "")), "#take"


def decisions(
    shown: Shown, assignment: Sequence[int], against: Sequence[int] | None = None
) -> tuple[Any, str]:
    """Return the table of a plan's decisions, and how many differ from another plan's."""
    graph, table, costs = shown.graph, shown.table, shown.costs
    assert graph is not None
    assert table is not None
    assert costs is not None
    colours = scheme_colours(table.schemes)
    reasons = scheme_reasons(graph, table, costs, assignment)
    losses = [max(float(table.values[g, s]), 0.0) for g, s in enumerate(assignment)]
    whole = sum(losses) or 1.0
    sizes = costs.objectives.get("weight_bytes")
    latency = costs.objectives.get("latency_us")
    order = list(range(len(assignment)))
    if against is not None:
        order = [g for g in order if assignment[g] != against[g]]
    rows = []
    for g in order:
        s, group = assignment[g], graph.groups[g]
        layers = [graph.layers[i] for i in group.layers]
        name = table.schemes[s]
        more = f"+ {len(layers) - 1} more: {group.reason}" if len(layers) > 1 else ""
        cells = [
            str(g + 1),
            Cell(shorten(group.name, 160), more),
            Cell(layers[0].op_type, layers[0].role),
            Cell(name, colour=colours[name]),
        ]
        if against is not None:
            old = table.schemes[against[g]]
            cells.append(Cell(old, colour=colours[old]))
        cells += [
            grouped(sum(layer.flops for layer in layers)),
            number(float(sizes[g, s])) if sizes is not None else "–",
            number(float(latency[g, s])) if latency is not None else "–",
            f"{100 * losses[g] / whole:.1f} %",
            reasons[g],
        ]
        rows.append(cells)
    other = ["there"] if against is not None else []
    figures = ("#FLOPs", "#bytes", "#µs, modelled", "#predicted loss")
    columns = ["##", "layer", "operator", "scheme", *other, *figures, "why"]
    said = f"{len(rows)} of {len(assignment)} groups differ." if against is not None else ""
    return table_of(columns, rows), said


def network(shown: Shown, assignment: Sequence[int]) -> list[dict[str, Any]]:
    """Return nodes and edges: layers where their depth in the graph puts them, boundaries marked."""
    graph, table = shown.graph, shown.table
    assert graph is not None
    assert table is not None
    group_of = {i: g for g, group in enumerate(graph.groups) for i in group.layers}
    names = plain_short_names([layer.name for layer in graph.layers], 28)
    places = _places(len(graph.layers), [(e.source, e.target) for e in graph.edges])
    elements: list[dict[str, Any]] = []
    for i, layer in enumerate(graph.layers):
        g = group_of.get(i)
        scheme = table.schemes[assignment[g]] if g is not None else ""
        elements.append(
            {
                "data": {
                    "id": f"n{i}",
                    "label": f"{names[i]} · {scheme or layer.op_type}",
                    "group": g,
                },
                "position": {"x": places[i][0], "y": places[i][1]},
                "classes": f"s{assignment[g]}" if g is not None else "free",
                "grabbable": False,
            }
        )
    for edge in graph.edges:
        ends = [group_of.get(edge.source), group_of.get(edge.target)]
        differ = None not in ends and assignment[ends[0] or 0] != assignment[ends[1] or 0]
        elements.append(
            {
                "data": {"source": f"n{edge.source}", "target": f"n{edge.target}"},
                "classes": "boundary" if differ else "",
            }
        )
    return elements


def _places(count: int, edges: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Depth downwards, in columns like those of a newspaper; layers of one depth side by side."""
    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edges)
    places = [(0.0, 0.0)] * count
    try:
        ranks = [sorted(rank) for rank in networkx.topological_generations(graph)]
    except networkx.NetworkXUnfeasible:
        ranks = [[i] for i in range(count)]
    rows = max(_ROWS, round((len(ranks) / 2) ** 0.5) * 2)
    left = 0.0
    for start in range(0, len(ranks), rows):
        column = ranks[start : start + rows]
        for depth, members in enumerate(column):
            for at, i in enumerate(members):
                places[i] = (left + _WIDTH * at, 56.0 * depth)
        left += _WIDTH * max(map(len, column))
    return places


def _style(schemes: Sequence[str], dark: bool) -> list[dict[str, Any]]:
    colours = scheme_colours(schemes)
    ink = "#e4e7ec" if dark else "#1c2026"
    node = {
        "content": "data(label)",
        "shape": "round-rectangle",
        "width": 26,
        "height": 26,
        "font-size": 13,
        "color": ink,
        "text-halign": "right",
        "text-margin-x": 6,
        "text-valign": "center",
        "text-background-color": "#171b21" if dark else "#ffffff",
        "text-background-opacity": 0.85,
        "text-background-padding": "2px",
        "background-color": "#7d8590",
        "border-width": 1,
        "border-color": ink,
    }
    edge = {
        "width": 1.2,
        "line-color": "#7d8590",
        "target-arrow-color": "#7d8590",
        "target-arrow-shape": "triangle",
        "curve-style": "bezier",
    }
    boundary = {"width": 4, "line-style": "dashed", "line-color": "#d1495b"}
    styles = [{"selector": "node", "style": node}, {"selector": "edge", "style": edge}]
    for s, name in enumerate(schemes):
        shape = "diamond" if is_hatched(name) else "round-rectangle"
        own = {"background-color": colours[name], "shape": shape}
        styles.append({"selector": f".s{s}", "style": own})
    styles.append({"selector": ".boundary", "style": {**boundary, "target-arrow-color": "#d1495b"}})
    return styles


def _legend(schemes: Sequence[str], assignment: Sequence[int]) -> list[Any]:
    colours = scheme_colours(schemes)
    return [
        html.Span(
            [
                html.I(className="dot", style={"background": colours[name]}),
                f"{shorten(name, 40)} · {list(assignment).count(s)} groups"
                f"{', sparse, as diamonds' if is_hatched(name) else ''}",
            ]
        )
        for s, name in enumerate(schemes)
        if s in assignment
    ]
