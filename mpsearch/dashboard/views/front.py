"""Front: what speed and size cost; limits as lines to drag, points to click, a brush that fills a table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, ctx, html, no_update
from dash.exceptions import PreventUpdate

from mpsearch.dashboard.choice import LIMITS, axes_of, given_limits, marked_rows, show
from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown, key_of
from mpsearch.dashboard.parts import blank, field, figure, select, table_of, themed, view
from mpsearch.figures.front import plot_front
from mpsearch.figures.parallel import parallel_figure
from mpsearch.figures.theme import COMPARED, plain_objective_title
from mpsearch.figures.words import say_front
from mpsearch.problem.front import Front
from mpsearch.problem.pareto import hypervolume
from mpsearch.stats.digits import number, with_error

NAME, TITLE = "front", "Front"
_MANY = 400  # points, above which zooming draws more of what is in sight
_NO_COLOUR = "–"


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "What speed and size cost",
        "Click a point to choose it; drag a dashed line to set a limit: the best plan under it is chosen. Brush "
        "with the box or lasso to list points.",
        html.Div(
            [
                field("Across", select("front-x")),
                field("Up", select("front-y")),
                field("Colour", select("front-colour")),
            ],
            className="row",
        ),
        figure(
            "front-graph",
            "Front: one objective against another, predicted line, measured points, plans to compare",
            "Dotted: predicted by tables. Red circles: measured with the whole model quantised, with the standard "
            "error. Blue diamonds: plans to compare, hollow where only predicted. Star: the chosen plan. Dashed: limits.",
            edits={"shapePosition": True},
        ),
        html.P(id="front-facts", className="note"),
        html.Div(id="front-brushed", role="status"),
        html.Details(
            [
                html.Summary("All objectives at once"),
                figure(
                    "front-parallel",
                    "Parallel coordinates: an axis for each objective, a line for each plan",
                    "Each axis runs from its best value below to its worst above.",
                ),
            ],
            open=True,
        ),
    )


def register(app: Dash, runs: Runs) -> None:
    """Make the view answer."""

    @app.callback(
        Output("front-x", "options"),
        Output("front-y", "options"),
        Output("front-colour", "options"),
        Output("front-x", "value"),
        Output("front-y", "value"),
        Output("front-colour", "value"),
        Input("run", "value"),
        Input("version", "data"),
        State("front-x", "value"),
        State("front-y", "value"),
        State("front-colour", "value"),
    )
    def offer(key: str, version: str, x: str, y: str, colour: str) -> Any:
        shown = runs.read(key or "")
        names = axes_of(shown) if shown is not None else []
        if not names or shown is None or shown.front is None:
            raise PreventUpdate
        options = [{"value": n, "label": plain_objective_title(n, shown.unit)} for n in names]
        up = "loss" if "loss" in names else names[-1]
        across = next((n for n in shown.front.names if n != up), names[0])
        colours = [{"value": _NO_COLOUR, "label": "none"}, *options]
        return (
            options,
            options,
            colours,
            x if x in names else across,
            y if y in names else up,
            colour if colour in names else _NO_COLOUR,
        )

    @app.callback(
        Output("window", "data"),
        Input("front-graph", "relayoutData"),
        Input("run", "value"),
        Input("front-x", "value"),
        prevent_initial_call=True,
    )
    def zoom(moved: Mapping[str, Any] | None, key: str, x: str) -> Any:
        if ctx.triggered_id != "front-graph" or (moved and moved.get("xaxis.autorange")):
            return None
        ends = [(moved or {}).get(f"xaxis.range[{i}]") for i in (0, 1)]
        return no_update if None in ends else ends

    @app.callback(
        *(Output(f"limit-{name}", "value", allow_duplicate=True) for name in LIMITS),
        Input("front-graph", "relayoutData"),
        State("run", "value"),
        State("front-x", "value"),
        State("front-y", "value"),
        State("chosen", "data"),
        prevent_initial_call=True,
    )
    def drag(moved: Mapping[str, Any] | None, key: str, x: str, y: str, chosen: str) -> Any:
        shown = runs.read(key or "")
        places = {
            x: (moved or {}).get("shapes[0].x0"),
            y: (moved or {}).get("shapes[1].y0"),
        }
        if shown is None or shown.front is None or not any(v is not None for v in places.values()):
            raise PreventUpdate
        return dragged_limits(shown, x, y, places, chosen)

    @app.callback(
        Output("front-missing", "children"),
        Output("front-body", "hidden"),
        Output("front-graph", "figure"),
        Output("front-graph-words", "children"),
        Output("front-facts", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("front-x", "value"),
        Input("front-y", "value"),
        Input("front-colour", "value"),
        Input("chosen", "data"),
        Input("screen", "data"),
        Input("window", "data"),
        *(Input(f"limit-{name}", "value") for name in LIMITS),
    )
    def draw(view: str, key: str, version: str, x: str, y: str, colour: str, *rest: Any) -> Any:
        chosen, screen, window, *limits = rest
        if view != NAME:
            raise PreventUpdate
        shown = runs.read(key or "")
        missing = lacks(shown, "points")
        if missing or shown is None or not {x, y} <= set(axes_of(shown)):
            return missing, True, blank(), "", ""
        chosen = chosen or ""
        drawn = front_of(shown, (x, y), colour, chosen, given_limits(limits), window)
        assert shown.front is not None
        words = say_front(shown.front, x, y, unit=shown.unit, chosen=shown.points.get(chosen))
        return "", False, themed(drawn, screen), words, _facts(shown, x, y)

    @app.callback(
        Output("front-parallel", "figure"),
        Output("front-parallel-words", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
        Input("screen", "data"),
    )
    def all_at_once(view: str, key: str, version: str, chosen: str, screen: Any) -> Any:
        shown = runs.read(key or "")
        if view != NAME or shown is None or shown.front is None or lacks(shown, "points"):
            raise PreventUpdate
        names, point = axes_of(shown), shown.points.get(chosen or "")
        drawn = parallel_figure(shown.front, names, chosen=point, unit=shown.unit)
        return themed(drawn, screen), _say_ranges(shown.front, names, shown.unit)

    @app.callback(
        Output("front-brushed", "children"),
        Input("front-graph", "selectedData"),
        Input("run", "value"),
        State("chosen", "data"),
    )
    def brush(selected: Mapping[str, Any] | None, key: str, chosen: str) -> Any:
        shown = runs.read(key or "")
        if ctx.triggered_id == "run" or not selected or shown is None:
            return None
        found = dict.fromkeys(_key_in(p) for p in selected.get("points", ()))
        return _brushed(shown, [k for k in found if k in shown.points], chosen)


def front_of(
    shown: Shown,
    objectives: tuple[str, str],
    colour: str,
    chosen: str,
    limits: Mapping[str, float],
    window: list[float] | None = None,
) -> Any:
    """Return the figure of a run's front with its limits as lines."""
    x, y = objectives
    ends = (window[0], window[1]) if window and len(shown.points) > _MANY else None
    drawn = plot_front(
        shown.front_in(x, y, ends),
        rows=marked_rows(shown, chosen),
        chosen=shown.points.get(chosen),
        unit=shown.unit,
        objectives=objectives,
        colour=colour if colour in axes_of(shown) else "",
        key=key_of,
    )
    left, right = drawn.layout.xaxis.range
    low, high = drawn.layout.yaxis.range
    across = limits.get(x, right)
    up = show(shown, x, y, chosen).scale.place(limits[y]) if y in limits else high
    drawn.update_layout(
        uirevision=f"{shown.key} {x} {y}",
        dragmode="zoom",
        xaxis_range=[left, max(right, across)],
        yaxis_range=[low, max(high, up)],
        shapes=[
            _line(
                x, limits.get(x), {"x0": across, "x1": across, "y0": 0, "y1": 1, "yref": "paper"}
            ),
            _line(y, limits.get(y), {"x0": 0, "x1": 1, "xref": "paper", "y0": up, "y1": up}),
        ],
    )
    return drawn


def _line(name: str, limit: float | None, ends: Mapping[str, Any]) -> dict[str, Any]:
    text = f"{plain_objective_title(name)} ≤ {number(limit, 4)}" if limit is not None else ""
    line = {"color": COMPARED, "width": 2 if text else 1.2, "dash": "dash"}
    label = {"text": text, "font": {"size": 12, "color": COMPARED}, "textposition": "end"}
    return {"type": "line", "line": line, "opacity": 1 if text else 0.45, "label": label, **ends}


def dragged_limits(
    shown: Shown, x: str, y: str, places: Mapping[str, Any], chosen: str
) -> list[Any]:
    """Return the values of the limits' fields after a line was dragged; dragged off the figure, it limits nothing."""
    seen = show(shown, x, y, chosen or "")
    found: dict[str, Any] = {}
    for name, place in places.items():
        if isinstance(place, int | float):
            end = seen.x_range[1] if name == x else seen.y_range[1]
            value = float(place) if name == x else seen.scale.value(float(place))
            found[name] = None if place >= end else float(f"{value:.4g}")
    return [found.get(name, no_update) for name in LIMITS]


def _key_in(point: Mapping[str, Any]) -> str:
    named = point.get("customdata", "")
    return str(named[0] if isinstance(named, list) and named else named)


def clicked_key(clicked: Mapping[str, Any] | None) -> str:
    """Return the plan that was clicked; "" if no point was."""
    points = (clicked or {}).get("points") or [{}]
    return _key_in(points[0])


def _facts(shown: Shown, x: str, y: str) -> str:
    assert shown.front is not None
    front = shown.front
    values = np.array([[p.value(n).mean for n in (x, y)] for p in front.points])
    low, high = values.min(axis=0), values.max(axis=0)
    box = float(np.prod(high - low))
    seen = np.array([[p.value(n).mean for n in (x, y)] for p in shown.front_in(x, y).points])
    share = hypervolume(seen, high) / box if box > 0 else 1.0
    measured = sum(bool(p.measured) for p in front.points)
    parts = [
        f"{len(front.points)} plans, {measured} measured",
        front.method and f"found by {front.method}",
        front.certificate and f"proven: {front.certificate}",
        f"hypervolume: {100 * share:.1f} % of the box between the best and the worst corner",
    ]
    return "; ".join(part for part in parts if part) + "."


def _say_ranges(front: Front, names: list[str], unit: str) -> str:
    parts = []
    for name in names:
        values = [p.value(name).mean for p in front.points]
        parts.append(
            f"{plain_objective_title(name, unit)} from {number(min(values))} to {number(max(values))}"
        )
    return "; ".join(parts) + "."


def _brushed(shown: Shown, keys: list[str], chosen: str) -> Any:
    if not keys:
        return None
    names = axes_of(shown)
    rows = []
    for key in keys:
        point = shown.points[key]
        cells = [
            f"{with_error(point.value(n))}{'' if n in point.measured else ' predicted' if n == 'loss' else ''}"
            for n in names
        ]
        counts = [
            f"{point.assignment.count(s)} {scheme}"
            for s, scheme in enumerate(shown.front.schemes if shown.front else ())
            if s in point.assignment
        ]
        rows.append([shown.labels.get(key, ""), *cells, ", ".join(counts)])
    columns = ["plan", *(f"#{plain_objective_title(n, shown.unit)}" for n in names), "groups"]
    marked = keys.index(chosen) if chosen in keys else -1
    return table_of(columns, rows, f"{len(keys)} brushed points", marked)
