"""Plans over three objectives and more: one axis each, a line a plan."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mpsearch.figures.theme import CHOSEN, MEASURED, PREDICTED, label, objective_title, template
from mpsearch.problem.front import Front, Point
from mpsearch.shown import spread
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Estimate, Floats

_MOST_LINES = 150


def parallel_figure(
    front: Front, names: Sequence[str], *, chosen: Point | None = None, unit: str = ""
) -> go.Figure:
    """Draw the points of ``front`` that have all of ``names``; the best of each is at the foot of its axis."""
    points = [p for p in front.points if set(names) <= _all(p).keys()]
    everything = [*points, *([chosen] if chosen is not None else [])]
    rows = [[_all(p)[name].mean for name in names] for p in everything]
    values = np.array(rows, np.float64).reshape(-1, len(names))
    low = values.min(axis=0, initial=np.inf)
    span = values.max(axis=0, initial=-np.inf) - low
    span = np.where(np.isfinite(span) & (span > 0), span, 1.0)
    places = (values - low) / span if len(values) else values
    figure = go.Figure()
    measured = [bool(p.measured) for p in points]
    for word, colour, width in (("predicted", PREDICTED, 0.8), ("measured", MEASURED, 1.4)):
        some = [i for i in range(len(points)) if measured[i] == (word == "measured")]
        some = [some[i] for i in spread(len(some), _MOST_LINES)]
        if some:
            figure.add_scatter(
                **_lines(places, some, names, [_said(points[i], names, unit) for i in some]),
                name=f"{word} points",
                line={"color": colour, "width": width},
                opacity=0.6,
            )
    if chosen is not None and len(places):
        figure.add_scatter(
            **_lines(places, [len(points)], names, [_said(chosen, names, unit)]),
            name="chosen plan",
            line={"color": CHOSEN, "width": 4},
        )
    ends = [
        {"x": i, "y": y, "text": number(float(v), 3), "showarrow": False, "yshift": shift}
        for i in range(len(names))
        if len(values)
        for y, v, shift in ((0, low[i], -12), (1, low[i] + span[i], 12))
    ]
    figure.update_layout(
        template=template(),
        height=380,
        showlegend=True,
        annotations=ends,
        xaxis={
            "tickvals": list(range(len(names))),
            "ticktext": [objective_title(name, unit) for name in names],
            "range": [-0.2, len(names) - 0.8],
            "showline": False,
            "gridcolor": PREDICTED,
        },
        yaxis={"visible": False, "range": [-0.12, 1.12]},
        hovermode="closest",
    )
    return figure


def _lines(
    places: Floats, some: Sequence[int], names: Sequence[str], texts: Sequence[str]
) -> dict[str, object]:
    x: list[float | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for i, text in zip(some, texts, strict=True):
        x += [*range(len(names)), None]
        y += [*places[i].tolist(), None]
        hover += [text] * (len(names) + 1)
    return {"x": x, "y": y, "hovertext": hover, "hoverinfo": "text", "mode": "lines"}


def _said(point: Point, names: Sequence[str], unit: str) -> str:
    return "<br>".join(
        f"{'measured' if name in point.measured else 'predicted'} {objective_title(name, unit)} "
        f"{label(with_error(_all(point)[name]))}"
        for name in names
    )


def _all(point: Point) -> dict[str, Estimate]:
    return {**point.predicted, **point.measured}
