"""Figures with one mark a layer, in schedule order: sensitivity, the plan, where its time goes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mpsearch.figures.shown.heat_map import show_table
from mpsearch.figures.shown.strips import show_plan
from mpsearch.figures.theme import (
    GREY,
    MONO,
    label,
    scheme_colours,
    scheme_fill,
    short_names,
    template,
)
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs, Table
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Bools, Estimate

_NAME_LENGTH = 34


def sensitivity_heatmap(
    table: Table,
    *,
    allowed: Bools | None = None,
    reasons: dict[tuple[str, str], str] | None = None,
    assignment: Sequence[int] | None = None,
) -> go.Figure:
    """Draw group × scheme sensitivity in logarithmic colour; what is not allowed is grey and crossed.

    Args:
        table: The sensitivities; rows keep their (schedule) order.
        allowed: [G, S] to draw instead of the table's, say with the device's limits added.
        reasons: (group, scheme) names to why not, shown in the hover.
        assignment: [G] chosen schemes, marked with a ring.
    """
    shown = show_table(table, allowed=allowed, chosen=assignment)
    allowed, colour, ticks = shown.allowed, shown.colour, shown.ticks
    reasons = dict(table.reasons) if reasons is None else reasons
    names = short_names(table.groups, _NAME_LENGTH)
    rows, columns = list(range(len(names))), list(range(len(table.schemes)))
    hover = [[_cell(table, g, s, bool(allowed[g, s]), reasons) for s in columns] for g in rows]
    figure = go.Figure()
    figure.add_heatmap(
        x=columns,
        y=rows,
        z=[
            [round(float(colour[g, s]), 9) if allowed[g, s] else None for s in columns]
            for g in rows
        ],
        text=[[hover[g][s] if allowed[g, s] else "" for s in columns] for g in rows],
        hoverinfo="text",
        xgap=2,
        ygap=1,
        coloraxis="coloraxis",
    )
    refused = shown.refused
    if refused:
        figure.add_heatmap(
            x=columns,
            y=rows,
            z=[[None if allowed[g, s] else 0 for s in columns] for g in rows],
            colorscale=[[0, "rgba(125,133,144,.22)"], [1, "rgba(125,133,144,.22)"]],
            showscale=False,
            text=[["" if allowed[g, s] else hover[g][s] for s in columns] for g in rows],
            hoverinfo="text",
            xgap=2,
            ygap=1,
        )
        figure.add_scatter(
            x=[s for _, s in refused],
            y=[g for g, _ in refused],
            mode="markers",
            name="not allowed",
            marker={"symbol": "x-thin", "size": 6, "line": {"width": 1, "color": GREY}},
            hoverinfo="skip",
        )
    if assignment is not None:
        figure.add_scatter(
            x=list(assignment),
            y=rows,
            mode="markers",
            name="chosen",
            marker={
                "symbol": "circle",
                "size": 7,
                "color": "#ffffff",
                "line": {"width": 1.5, "color": "#14171c"},
            },
            hoverinfo="skip",
        )
    figure.update_layout(
        template=template(),
        showlegend=True,
        height=_height(len(names)),
        xaxis={
            "side": "top",
            "tickvals": columns,
            "ticktext": [label(s, 20) for s in table.schemes],
            "showgrid": False,
            "showline": False,
            "ticks": "",
            "range": [-0.5, len(columns) - 0.5],
            "tickangle": 0 if len(columns) <= 6 else -40,
        },
        yaxis={
            "range": [len(names) - 0.5, -0.5],
            "tickvals": rows,
            "ticktext": names,
            "tickfont": {"family": MONO, "size": 11},
            "showgrid": False,
            "showline": False,
            "ticks": "",
        },
        legend={"y": 0, "yanchor": "top"},
        coloraxis={
            "colorbar": {
                "title": {"text": label(table.unit), "side": "right"},
                "tickvals": [position for position, _ in ticks],
                "ticktext": [text for _, text in ticks],
                "thickness": 12,
                "len": min(1.0, 320 / _height(len(names))),
                "y": 1,
                "yanchor": "top",
                "outlinewidth": 0,
            }
        },
        margin={"t": 36, "b": 40},
        meta={
            "narrow": {
                "yaxis.ticktext": short_names(table.groups, 16),
                "xaxis.tickangle": -60,
                "coloraxis.showscale": False,
            }
        },
    )
    return figure


def plan_figure(
    graph: ModelGraph,
    schemes: Sequence[str],
    assignment: Sequence[int],
    *,
    costs: Costs | None = None,
    table: Table | None = None,
) -> go.Figure:
    """Draw a plan: strips of one tile a layer in schedule order, coloured by its scheme.

    The strips show the same layers at widths that stand for: their number, their parameters, their
    FLOPs, and, where ``costs`` and ``table`` are given, the plan's own latency and predicted loss.
    """
    shown = show_plan(graph, assignment, costs=costs, table=table)
    colours = scheme_colours(schemes)
    figure = go.Figure()
    count = Counter(schemes[s] for s in shown.schemes)
    for s, name in enumerate(schemes):
        if not count[name]:
            continue
        bars: dict[str, list[object]] = {"x": [], "base": [], "y": [], "hovertext": []}
        for strip in shown.strips:
            for i, own, share, start in zip(
                shown.layers,
                shown.schemes,
                strip.shares.tolist(),
                strip.starts.tolist(),
                strict=True,
            ):
                if own == s and share > 0:
                    bars["x"].append(round(share, 9))  # digits that nobody sees weigh in the file
                    bars["base"].append(round(start, 9))
                    bars["y"].append(strip.title)
                    bars["hovertext"].append(_layer_hover(graph, i, name, strip.title, share))
        figure.add_bar(
            **bars,
            orientation="h",
            name=f"{label(name)} · {count[name]}",
            width=0.72,
            hoverinfo="text",
            marker=scheme_fill(name, colours[name])
            | {"line": {"width": 0.6, "color": "rgba(255,255,255,.6)"}},
        )
    figure.update_layout(
        template=template(),
        showlegend=True,
        barmode="overlay",
        height=96 + 46 * len(shown.strips),
        xaxis={
            "range": [0, 100],
            "ticksuffix": " %",
            "title": {"text": "share, layers in schedule order"},
            "showgrid": False,
        },
        yaxis={
            "categoryorder": "array",
            "categoryarray": [strip.title for strip in reversed(shown.strips)],
            "showline": False,
            "ticks": "",
            "showgrid": False,
        },
        hovermode="closest",
        margin={"t": 40},
    )
    return figure


def latency_figure(
    costs: Costs,
    assignment: Sequence[int],
    *,
    uniform: Sequence[int] | None = None,
    uniform_label: str = "uniform",
) -> go.Figure:
    """Draw the modelled latency of each group in a plan, beside a uniform plan's.

    The last bar is what is paid between layers: switches of mode and conversions of format.
    """
    latency = costs.objectives["latency_us"]
    colours = scheme_colours(costs.schemes)
    groups = range(len(costs.groups))
    between = len(costs.groups)
    figure = go.Figure()
    for s, name in enumerate(costs.schemes):
        mine = [g for g in groups if assignment[g] == s]
        if not mine:
            continue
        figure.add_bar(
            x=mine,
            y=[float(latency[g, s]) for g in mine],
            name=label(name),
            hovertext=[
                f"<b>{g + 1} {label(costs.groups[g], 60)}</b><br>{label(name)} {number(latency[g, s])} µs"
                for g in mine
            ],
            hoverinfo="text",
            marker=scheme_fill(name, colours[name]) | {"line": {"width": 0}},
        )
    paid = pair_cost(costs, assignment, "latency_us")
    figure.add_bar(
        x=[between],
        y=[paid],
        name="between layers",
        marker={"color": GREY},
        hovertext=[f"<b>between layers</b><br>switches and conversions {number(paid)} µs"],
        hoverinfo="text",
    )
    if uniform is not None:
        other = [float(latency[g, uniform[g]]) for g in groups]
        other.append(pair_cost(costs, uniform, "latency_us"))
        figure.add_scatter(
            x=[*groups, between],
            y=other,
            mode="markers",
            name=label(uniform_label),
            marker={"symbol": "line-ew", "size": 9, "line": {"width": 2, "color": GREY}},
            hovertext=[f"{label(uniform_label)} {number(v)} µs" for v in other],
            hoverinfo="text",
        )
    many = len(costs.groups) > 24
    names = [*short_names(costs.groups, _NAME_LENGTH), "between layers"]
    numbers = list(range(0, between, max(1, 5 * round(between / 60))))
    figure.update_layout(
        template=template(),
        showlegend=True,
        barmode="overlay",
        bargap=0.15,
        height=400 if many else 480,
        xaxis={
            "tickvals": numbers if many else list(range(between + 1)),
            "ticktext": [str(i + 1) for i in numbers] if many else names,
            "tickangle": 0 if many else None,
            "tickfont": {"family": MONO, "size": 11},
            "showgrid": False,
            "title": {"text": "groups in schedule order" if many else ""},
        },
        yaxis={"title": {"text": "modelled latency (µs)"}, "rangemode": "tozero"},
        hovermode="closest",
    )
    return figure


def pair_cost(costs: Costs, assignment: Sequence[int], objective: str) -> float:
    """Return what an assignment pays along the edges, in the objective's unit."""
    terms = costs.pair_terms.get(objective)
    if terms is None or not len(costs.edges):
        return 0.0
    chosen = np.asarray(assignment)
    index = np.arange(len(costs.edges))
    return float(terms[index, chosen[costs.edges[:, 0]], chosen[costs.edges[:, 1]]].sum())


def _layer_hover(graph: ModelGraph, index: int, scheme: str, title: str, share: float) -> str:
    layer = graph.layers[index]
    gemm = layer.gemms[0]
    role = f", {label(layer.role)}" if layer.role else ""
    return (
        f"<b>{label(layer.name, 60)}</b><br>{label(layer.op_type)}{role} in {label(scheme)}<br>"
        f"M {gemm.m}, N {gemm.n}, K {gemm.k}"
        f"{f', {gemm.groups} groups' if gemm.groups > 1 else ''}<br>"
        f"{number(layer.parameters)} parameters<br>{number(share)} % of {title}"
    )


def _height(rows: int) -> int:
    """Pixels that keep names readable, within what a browser scrolls gladly."""
    return round(100 + rows * min(24.0 if rows <= 24 else 17.0, max(7.0, 4000 / max(rows, 1))))


def _cell(table: Table, g: int, s: int, allowed: bool, reasons: dict[tuple[str, str], str]) -> str:
    name, scheme = table.groups[g], table.schemes[s]
    head = f"<b>{label(name, 60)}</b><br>{label(scheme)}"
    if not allowed:
        return f"{head} not allowed<br>{label(reasons.get((name, scheme), ''), 90)}"
    value = Estimate(float(table.values[g, s]), float(table.stderr[g, s]))
    return f"{head} {with_error(value)} {label(table.unit)}"
