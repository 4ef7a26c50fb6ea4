"""Fronts of several runs in one picture: devices, spaces or seeds beside each other."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mpsearch.figures.plan_row import predicted_line
from mpsearch.figures.shown.scale import choose_scale, padded
from mpsearch.figures.theme import SPARE, label, objective_title, template
from mpsearch.problem.front import Front, Point
from mpsearch.shown import spread
from mpsearch.stats.digits import with_error
from mpsearch.stats.estimates import Estimate

_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "x", "pentagon")
_MOST = 200


def fronts_figure(fronts: Mapping[str, Front], objectives: tuple[str, str], unit: str) -> go.Figure:
    """Draw the predicted line and the measured points of each front, told apart by colour and mark."""
    x, y = objectives
    figure = go.Figure()
    lines = {name: _thinned(predicted_line(front.points, x, y)) for name, front in fronts.items()}
    dots = {
        name: _thinned([p for p in front.points if y in p.measured and x in _all(p)])
        for name, front in fronts.items()
    }
    losses = [p.predicted[y].mean for line in lines.values() for p in line]
    losses += [p.measured[y].mean for some in dots.values() for p in some]
    scale = choose_scale(losses)
    for i, name in enumerate(fronts):
        colour, symbol = SPARE[i % len(SPARE)], _SYMBOLS[i % len(_SYMBOLS)]
        shown = label(name, 40)
        if lines[name]:
            figure.add_scatter(
                x=[p.predicted[x].mean for p in lines[name]],
                y=[scale.place(p.predicted[y].mean) for p in lines[name]],
                mode="lines",
                name=f"{shown}, predicted",
                line={"color": colour, "width": 1.5, "dash": "dot"},
                hoverinfo="name",
            )
        if dots[name]:
            reach = [scale.error(*p.measured[y]) for p in dots[name]]
            figure.add_scatter(
                x=[_all(p)[x].mean for p in dots[name]],
                y=[scale.place(p.measured[y].mean) for p in dots[name]],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [above for _, above in reach],
                    "arrayminus": [below for below, _ in reach],
                    "thickness": 1,
                    "width": 0,
                },
                mode="markers",
                name=f"{shown}, measured",
                marker={"color": colour, "symbol": symbol, "size": 8},
                hovertext=[
                    f"<b>{shown}</b><br>{objective_title(x)} {with_error(_all(p)[x])}"
                    f"<br>measured {objective_title(y, unit)} {with_error(p.measured[y])}"
                    for p in dots[name]
                ],
                hoverinfo="text",
            )
    low, high = padded([scale.place(v) for v in losses])
    ticks = scale.ticks(low, high)
    figure.update_layout(
        template=template(),
        height=520,
        showlegend=True,
        xaxis={"title": {"text": objective_title(x)}},
        yaxis={"title": {"text": objective_title(y, unit)}, "range": [low, high]}
        | ({"tickvals": [a for a, _ in ticks], "ticktext": [t for _, t in ticks]} if ticks else {}),
        hovermode="closest",
    )
    return figure


def _thinned(points: Sequence[Point]) -> list[Point]:
    return [points[i] for i in spread(len(points), _MOST)]


def _all(point: Point) -> dict[str, Estimate]:
    return {**point.predicted, **point.measured}
