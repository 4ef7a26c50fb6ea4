"""Sensitivities with their errors, ordered, and as two metrics rank them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from mpsearch.figures.shown.scale import choose_scale, padded
from mpsearch.figures.theme import GREY, MEASURED, MONO, label, short_names, template
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Table
from mpsearch.stats.digits import with_error
from mpsearch.stats.estimates import Bools, Floats, Ints

_MOST_GROUPS = 40


def roles_of(graph: ModelGraph) -> list[str]:
    """Return the role of each group's first layer; its operator where it has none."""
    first = [graph.layers[group.layers[0]] for group in graph.groups]
    return [layer.role or layer.op_type for layer in first]


def order_groups(table: Table, roles: Sequence[str], by: str, role: str = "") -> Ints:
    """Return group indices ``by`` ``schedule``, ``role`` or ``fragility``, of one role or all ("")."""
    fragility = np.where(table.allowed, table.values, 0.0).max(axis=1)
    index = np.arange(len(table.groups))
    if by == "fragility":
        index = np.argsort(-fragility, kind="stable")
    elif by == "role":
        index = np.array(sorted(index.tolist(), key=lambda g: (roles[g], -fragility[g])))
    return index[[not role or roles[g] == role for g in index.tolist()]].astype(np.int64)


def take_groups(table: Table, index: Ints) -> Table:
    """Return the rows of ``table`` at ``index``, without interactions."""
    return replace(
        table,
        groups=tuple(table.groups[g] for g in index.tolist()),
        values=table.values[index],
        stderr=table.stderr[index],
        allowed=table.allowed[index],
        edges=np.zeros((0, 2), np.int64),
        pair_terms=None,
        details={},
    )


def errors_figure(table: Table, allowed: Bools, scheme: int) -> go.Figure:
    """Draw the most fragile groups of one scheme with their standard errors."""
    values = np.where(allowed[:, scheme], table.values[:, scheme], -np.inf)
    order = [g for g in np.argsort(-values)[:_MOST_GROUPS].tolist() if np.isfinite(values[g])]
    names = short_names([table.groups[g] for g in order], 34)
    scale = choose_scale([float(values[g]) for g in order])
    reach = [scale.error(float(values[g]), float(table.stderr[g, scheme])) for g in order]
    figure = go.Figure()
    figure.add_scatter(
        x=[scale.place(float(values[g])) for g in order],
        y=list(range(len(order))),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [above for _, above in reach],
            "arrayminus": [below for below, _ in reach],
            "thickness": 1.2,
        },
        mode="markers",
        marker={"size": 8, "color": MEASURED},
        hovertext=[
            f"{label(table.groups[g], 60)}<br>"
            f"{with_error((float(values[g]), float(table.stderr[g, scheme])))} {label(table.unit)}"
            for g in order
        ],
        hoverinfo="text",
    )
    places = [scale.place(float(values[g])) for g in order]
    low, high = padded(places)
    ticks = scale.ticks(low, high)
    figure.update_layout(
        template=template(),
        height=120 + 17 * len(order),
        xaxis={
            "title": {
                "text": f"{label(table.schemes[scheme])}: {label(table.unit)} ± standard error"
            }
        }
        | ({"tickvals": [a for a, _ in ticks], "ticktext": [t for _, t in ticks]} if ticks else {}),
        yaxis={
            "tickvals": list(range(len(order))),
            "ticktext": names,
            "range": [len(order) - 0.5, -0.5],
            "tickfont": {"family": MONO, "size": 11},
        },
        hovermode="closest",
    )
    return figure


def ranks_figure(table: Table, detail: str, allowed: Bools) -> go.Figure:
    """Draw how another metric (a detail of the table) ranks the entries that may be taken; 1 is most fragile."""
    own, other = _ranks(table.values[allowed]), _ranks(table.details[detail][allowed])
    where = np.argwhere(allowed).tolist()
    figure = go.Figure()
    n = max(len(own), 1)
    figure.add_scatter(
        x=[1, n],
        y=[1, n],
        mode="lines",
        name="the same rank",
        line={"color": GREY, "width": 1, "dash": "dash"},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=own.tolist(),
        y=other.tolist(),
        mode="markers",
        name="entries",
        marker={"size": 6, "color": MEASURED, "opacity": 0.7},
        hovertext=[f"{label(table.groups[g], 60)}<br>{label(table.schemes[s])}" for g, s in where],
        hoverinfo="text",
    )
    figure.update_layout(
        template=template(),
        height=460,
        showlegend=True,
        xaxis={"title": {"text": f"rank by {label(table.metric)}, 1 is most fragile"}},
        yaxis={"title": {"text": f"rank by {label(detail)}"}},
        hovermode="closest",
    )
    return figure


def _ranks(values: Floats) -> Ints:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks
