"""Compare: fronts of several runs over each other, and plans of one priced by the tables of another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import Dash, Input, Output, dcc, html
from dash.exceptions import PreventUpdate

from mpsearch.dashboard.choice import axes_of
from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown
from mpsearch.dashboard.parts import blank, field, figure, select, table_of, themed, view
from mpsearch.figures.several import fronts_figure
from mpsearch.figures.theme import plain_objective_title
from mpsearch.shown import shorten
from mpsearch.stats.digits import number

NAME, TITLE = "compare", "Compare runs"
_MOST_AT_ONCE = 8


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "Several runs beside each other",
        "Devices, spaces or seeds: which buys more, and whether a plan of one holds on another.",
        field("Runs", dcc.Checklist(id="compare-runs", options=[], value=[], inline=True)),
        html.Div(
            [field("Across", select("compare-x")), field("Up", select("compare-y"))],
            className="row",
        ),
        figure(
            "compare-graph",
            "Fronts of several runs",
            "Dotted lines are predicted, marks measured; each run has a colour and a mark of its own.",
        ),
        html.H3("Plans do not transfer"),
        html.P(
            "The chosen plan, priced by the tables of the other runs of this model, beside the best plan that each found "
            "itself at no more predicted loss.",
            className="note",
        ),
        html.Div(id="compare-table"),
    )


def register(app: Dash, runs: Runs) -> None:
    """Make the view answer."""

    @app.callback(
        Output("compare-runs", "options"),
        Output("compare-runs", "value"),
        Output("compare-x", "options"),
        Output("compare-x", "value"),
        Output("compare-y", "options"),
        Output("compare-y", "value"),
        Input("run", "value"),
        Input("run", "options"),
    )
    def offer(key: str, options: Any) -> Any:
        fit = [shown for shown in runs.all() if axes_of(shown)]
        own = next((axes_of(shown) for shown in fit if shown.key == key), None)
        if own is None:
            raise PreventUpdate
        axes = [{"value": n, "label": plain_objective_title(n)} for n in own]
        up = "loss" if "loss" in own else own[-1]
        across = next((n for n in own if n != up), up)
        boxes = [{"value": s.key, "label": f" {shorten(s.name, 40)}"} for s in fit]
        on = [s.key for s in fit if {across, up} <= set(axes_of(s))][:_MOST_AT_ONCE]
        return boxes, on, axes, across, axes, up

    @app.callback(
        Output("compare-missing", "children"),
        Output("compare-body", "hidden"),
        Output("compare-graph", "figure"),
        Output("compare-graph-words", "children"),
        Output("compare-table", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
        Input("compare-runs", "value"),
        Input("compare-x", "value"),
        Input("compare-y", "value"),
        Input("screen", "data"),
    )
    def draw(view: str, key: str, version: str, chosen: str, *picked: Any) -> Any:
        if view != NAME:
            raise PreventUpdate
        on, x, y, screen = picked
        shown = runs.read(key or "")
        missing = lacks(shown, "points")
        if missing or shown is None:
            return missing, True, blank(), "", None
        others = [runs.read(k) for k in (on or [])[:_MOST_AT_ONCE]]
        fit = [o for o in others if o is not None and o.front and {x, y} <= set(axes_of(o))]
        fronts = {_unique(fit, i): o.front for i, o in enumerate(fit) if o.front is not None}
        drawn = themed(fronts_figure(fronts, (x, y), shown.unit), screen)
        words = "; ".join(
            f"{name}: {len(f.points)} plans, {plain_objective_title(x)} from "
            f"{number(min(p.value(x).mean for p in f.points))}"
            for name, f in fronts.items()
        )
        return "", False, drawn, f"{words}.", transfer(shown, chosen or "", list(runs.all()))


def _unique(runs: Sequence[Shown], at: int) -> str:
    name = runs[at].name
    same = [i for i, run in enumerate(runs) if run.name == name]
    return name if len(same) == 1 else f"{name} ({same.index(at) + 1})"


def transfer(shown: Shown, chosen: str, others: Sequence[Shown]) -> Any:
    """Return what the chosen plan costs by the tables of other runs of the same groups."""
    if chosen not in shown.points or shown.problem is None:
        return html.P("Choose a plan first.", className="note")
    rows = []
    for other in others:
        if other.problem is None or other.problem.groups != shown.problem.groups:
            continue
        moved = moved_plan(shown, chosen, other)
        where = f"{other.name} ({other.costs.device if other.costs else ''})"
        if isinstance(moved, str):
            rows.append([where, "–", "–", "–", moved])
            continue
        here = other.point(moved)
        loss = here.predicted["loss"].mean
        rivals = [p for p in other.points.values() if p.predicted["loss"].mean <= loss]
        times = [p.predicted["latency_us"] for p in rivals if "latency_us" in p.predicted]
        best = min(times, default=None)
        us = here.predicted.get("latency_us")
        rows.append(
            [
                where,
                number(loss),
                number(us.mean) if us else "–",
                number(best.mean) if best else "–",
                "its own run" if other.key == shown.key else _say_gap(us, best),
            ]
        )
    if len(rows) < 2:
        return html.P("No other run here has the same groups.", className="note")
    columns = ["run (device)", "#predicted loss there", "#µs there", "#µs of its own best", "so"]
    return table_of(columns, rows)


def moved_plan(shown: Shown, chosen: str, other: Shown) -> tuple[int, ...] | str:
    """Return the plan in the schemes of another run, or why it cannot run there."""
    assert shown.problem is not None
    assert other.problem is not None
    names = [shown.problem.schemes[s] for s in shown.points[chosen].assignment]
    lost = sorted({name for name in names if name not in other.problem.schemes})
    if lost:
        return f"cannot run there: the space has no {', '.join(lost)}"
    moved = tuple(other.problem.schemes.index(name) for name in names)
    allowed = other.problem.allowed[np.arange(len(moved)), moved]
    if not allowed.all():
        g = int(np.flatnonzero(~allowed)[0])
        why = other.reasons.get((other.problem.groups[g], names[g]), "not allowed")
        return f"cannot run there: {shorten(other.problem.groups[g], 40)} in {names[g]}: {why}"
    return moved


def _say_gap(us: Any, best: Any) -> str:
    if us is None or best is None or not best.mean:
        return ""
    more = us.mean / best.mean - 1
    if more < 0.005:
        return "it holds: as fast as the run's own best"
    return f"{100 * more:.0f} % slower than what was found for it"
