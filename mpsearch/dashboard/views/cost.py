"""Cost: where a plan's time goes, what binds each layer, and what boundaries take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import Dash, Input, Output, html
from dash.exceptions import PreventUpdate

from mpsearch.cost.device import Device, read_device
from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown
from mpsearch.dashboard.parts import blank, figure, table_of, themed, view
from mpsearch.errors import MpsearchError
from mpsearch.figures.comparison import compare
from mpsearch.figures.layers import latency_figure, pair_cost
from mpsearch.figures.roofline import place_groups, roofline_figure
from mpsearch.figures.words import say_latency
from mpsearch.problem.tables import Costs
from mpsearch.stats.digits import number

NAME, TITLE = "cost", "Cost"
_MOST_BOUNDARIES = 60


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "Where the time goes",
        "Modelled for the run's device, never timed here.",
        figure(
            "cost-latency",
            "Modelled latency of each group of the chosen plan",
            "The last bar is what is paid between layers: changes of mode and conversions. Dashes: the uniform plan.",
        ),
        html.H3("What binds each layer"),
        html.P(id="cost-bound", className="note"),
        html.Div(
            figure(
                "cost-roofline",
                "Roofline: operations a second against operations a byte",
                "Circles are bound by memory, squares by arithmetic; open triangles are far below both roofs: launches, "
                "small shapes or conversions take their time.",
            ),
            id="cost-roof",
        ),
        html.H3("Boundaries"),
        html.P(id="cost-share", className="note"),
        html.Div(id="cost-boundaries"),
    )


def register(app: Dash, runs: Runs) -> None:
    """Make the view answer."""

    @app.callback(
        Output("cost-missing", "children"),
        Output("cost-body", "hidden"),
        Output("cost-latency", "figure"),
        Output("cost-latency-words", "children"),
        Output("cost-bound", "children"),
        Output("cost-roofline", "figure"),
        Output("cost-roofline-words", "children"),
        Output("cost-roof", "hidden"),
        Output("cost-share", "children"),
        Output("cost-boundaries", "children"),
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
        missing = lacks(shown, "graph", "costs", "chosen", chosen=chosen or "")
        known = shown.costs.objectives if shown is not None and shown.costs is not None else {}
        if not missing and "latency_us" not in known:
            missing = "This run's device has no latency model."
        if missing or shown is None or shown.costs is None or shown.graph is None:
            return missing, True, blank(), "", "", blank(), "", True, "", None
        assignment = shown.points[chosen].assignment
        rival = compare(shown.report) if shown.report is not None else None
        bars = latency_figure(
            shown.costs,
            assignment,
            uniform=rival.uniform.assignment if rival else None,
            uniform_label=rival.uniform.label if rival else "",
        )
        device, why = device_of(shown)
        words, roof = why, blank()
        if device is not None:
            words = say_bounds(shown, device, assignment)
            roof = themed(roofline_figure(shown.graph, shown.costs, device, assignment), screen)
        share, table = boundaries(shown.costs, assignment)
        return (
            "",
            False,
            themed(bars, screen),
            say_latency(shown.costs, assignment),
            words,
            roof,
            words,
            device is None,
            share,
            table,
        )


def device_of(shown: Shown) -> tuple[Device | None, str]:
    """Return the run's device where it ships with mpsearch, else why no roof can be drawn."""
    assert shown.run is not None
    name = shown.run.job.device
    if name.endswith(".toml") or "/" in name or "\\" in name:
        return (
            None,
            "The device is a file of its own, which the run does not hold: no roof is drawn.",
        )
    try:
        return read_device(name), ""
    except MpsearchError:
        return None, f"The device {name!r} does not ship with this version: no roof is drawn."


def say_bounds(shown: Shown, device: Device, assignment: Sequence[int]) -> str:
    """Return what share of the time is bound by what."""
    assert shown.graph is not None
    assert shown.costs is not None
    placed = place_groups(shown.graph, shown.costs, device, assignment)
    latency = shown.costs.objectives["latency_us"]
    times: dict[str, float] = {}
    for p in placed:
        times[p.bound] = times.get(p.bound, 0.0) + float(latency[p.group, p.scheme])
    whole = sum(times.values()) or 1.0
    parts = [
        f"{100 * us / whole:.0f} % of the layers' time is bound by {bound}"
        for bound, us in sorted(times.items(), key=lambda item: -item[1])
    ]
    left = len(assignment) - len(placed)
    tail = f"; {left} groups have no place: their scheme has no known rate" if left else ""
    return f"On {device.title}: {', '.join(parts)}{tail}." if parts else "No group has a place."


def boundaries(costs: Costs, assignment: Sequence[int]) -> tuple[str, Any]:
    """Return what is paid between layers, in words and edge by edge."""
    terms = costs.pair_terms.get("latency_us")
    chosen = np.asarray(assignment)
    own = costs.objectives["latency_us"][np.arange(len(chosen)), chosen].sum()
    paid = pair_cost(costs, assignment, "latency_us")
    whole = float(own) + paid + costs.constants.get("latency_us", 0.0)
    share = f"{number(paid)} µs of {number(whole)} µs, {100 * paid / whole if whole else 0:.1f} %, are paid between layers."
    if terms is None or not paid:
        return share, None
    edges = costs.edges
    each = terms[np.arange(len(edges)), chosen[edges[:, 0]], chosen[edges[:, 1]]]
    order = [e for e in np.argsort(-each).tolist() if each[e] > 0]
    rows = [
        [
            costs.groups[int(edges[e, 0])],
            costs.schemes[int(chosen[edges[e, 0]])],
            costs.groups[int(edges[e, 1])],
            costs.schemes[int(chosen[edges[e, 1]])],
            number(float(each[e])),
        ]
        for e in order[:_MOST_BOUNDARIES]
    ]
    return share, table_of(["from", "in", "to", "in", "#µs"], rows, "The dearest boundaries first")
