"""The front, and how far its predictions can be trusted, as plotly figures.

Predicted and measured values never share a trace, a marker or a word.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go

from mpsearch.figures.plan_row import PlanRow, predicted_line, row_value
from mpsearch.figures.theme import (
    GREY,
    MEASURED,
    MONO,
    PREDICTED,
    label,
    objective_title,
    template,
    with_error,
)
from mpsearch.problem.front import Front, Point
from mpsearch.stats.estimates import Estimate

_MOST_POINTS = 400  # more cannot be told apart on a screen, and weigh in the file


def plot_front(
    front: Front,
    *,
    rows: Sequence[PlanRow] = (),
    chosen: Point | None = None,
    unit: str = "",
    objectives: tuple[str, str] | None = None,
) -> go.Figure:
    """Draw a front: its predicted line, its measured points with standard errors, plans to compare.

    Args:
        front: The front; points may be predicted, measured or both.
        rows: Uniform plans to mark; rows without an assignment have no place on a front.
        chosen: The point to star.
        unit: Unit of ``loss``, for the axis.
        objectives: (horizontal, vertical); by default the first cost of the front, and ``loss``.
    """
    x, y = objectives or _axes(front)
    figure = go.Figure()
    points = sorted(
        (p for p in front.points if x in _all(p)), key=lambda p: (_all(p)[x].mean, _all(p)[y].mean)
    )
    predicted = _spread(predicted_line(points, x, y), _MOST_POINTS)
    measured = [p for p in points if y in p.measured]
    if predicted:
        figure.add_scatter(
            x=[_all(p)[x].mean for p in predicted],
            y=[p.predicted[y].mean for p in predicted],
            mode="lines+markers" if len(predicted) <= 80 else "lines",
            name=f"predicted {label(y)}",
            line={"color": PREDICTED, "width": 1.5, "dash": "dot"},
            marker={"size": 4, "color": PREDICTED},
            hovertext=[_hover("predicted", p.assignment, p.predicted, front) for p in predicted],
            hoverinfo="text",
        )
    both = [p for p in measured if y in p.predicted]
    if both:
        figure.add_scatter(
            x=[v for p in both for v in (_all(p)[x].mean,) * 2 + (None,)],
            y=[v for p in both for v in (p.predicted[y].mean, p.measured[y].mean, None)],
            mode="lines",
            line={"color": GREY, "width": 1},
            opacity=0.5,
            hoverinfo="skip",
            showlegend=False,
        )
    if measured:
        figure.add_scatter(
            x=[_all(p)[x].mean for p in measured],
            y=[p.measured[y].mean for p in measured],
            error_y=_error_bars(p.measured[y] for p in measured),
            mode="markers",
            name=f"measured {label(y)} ± standard error",
            marker={"size": 9, "color": MEASURED, "line": {"width": 1, "color": "#ffffff"}},
            hovertext=[_hover("measured", p.assignment, _all(p), front) for p in measured],
            hoverinfo="text",
        )
    _add_rows(figure, [r for r in rows if r.assignment is not None], x, y, front)
    if chosen is not None and x in _all(chosen) and y in _all(chosen):
        word = "measured" if y in chosen.measured else "predicted"
        figure.add_scatter(
            x=[_all(chosen)[x].mean],
            y=[_all(chosen)[y].mean],
            mode="markers",
            name=f"chosen plan ({word})",
            marker={
                "symbol": "star",
                "size": 19,
                "color": "#f2b705",
                "line": {"width": 1.5, "color": "#5b4300"},
            },
            hovertext=[_hover(f"chosen, {word}", chosen.assignment, _all(chosen), front)],
            hoverinfo="text",
        )
    seen = [p.measured[y].mean for p in measured]
    seen += [row.measured[y].mean for row in rows if y in row.measured]
    guessed = [p.predicted[y].mean for p in predicted]
    guessed += [row.predicted[y].mean for row in rows if y in row.predicted and x != y]
    figure.update_layout(
        template=template(),
        height=520,
        xaxis={"title": {"text": objective_title(x, unit)}},
        yaxis={"title": {"text": objective_title(y, unit)}} | _vertical(seen, guessed),
        hovermode="closest",
    )
    return figure


def trust_figure(front: Front, *, objective: str = "loss", unit: str = "") -> go.Figure:
    """Draw predicted against measured values of the points that have both.

    Points on the diagonal were predicted rightly; a rising cloud was at least ranked rightly.
    """
    both = [p for p in front.points if objective in p.predicted and objective in p.measured]
    predicted = [p.predicted[objective] for p in both]
    measured = [p.measured[objective] for p in both]
    values = [e.mean for e in predicted + measured]
    figure = go.Figure()
    if both:
        figure.add_scatter(
            x=[min(values), max(values)],
            y=[min(values), max(values)],
            mode="lines",
            name="predicted = measured",
            line={"color": GREY, "width": 1, "dash": "dash"},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[e.mean for e in predicted],
            y=[e.mean for e in measured],
            error_x=_error_bars(predicted),
            error_y=_error_bars(measured),
            mode="markers",
            name="front points",
            marker={"size": 9, "color": MEASURED, "line": {"width": 1, "color": "#ffffff"}},
            hovertext=[
                f"predicted {with_error(p.predicted[objective])}<br>"
                f"measured&nbsp; {with_error(p.measured[objective])}"
                f"<br>{histogram(p.assignment, front.schemes)}"
                for p in both
            ],
            hoverinfo="text",
        )
    kind = _axis_type(values)
    title = objective_title(objective, unit)
    figure.update_layout(
        template=template(),
        height=460,
        xaxis={"title": {"text": f"predicted {title}"}, "type": kind},
        yaxis={"title": {"text": f"measured {title}"}}
        | (_vertical([e.mean for e in measured], values) if kind == "linear" else {"type": kind}),
        hovermode="closest",
    )
    return figure


def histogram(assignment: Sequence[int], schemes: Sequence[str]) -> str:
    """Return how many groups take each scheme, as lines of bars for a hover text."""
    counts = Counter(schemes[s] for s in assignment)
    shown = [name for name in schemes if counts[name]]
    width = max((len(name) for name in shown), default=0)
    most = max(counts.values(), default=1)
    lines = []
    for name in shown:
        bar = "█" * max(1, round(16 * counts[name] / most))
        padded = label(name) + "&nbsp;" * (width - len(name))
        lines.append(f"{padded} {bar} {counts[name]}")
    return "<br>".join(lines)


def _axes(front: Front) -> tuple[str, str]:
    y = "loss" if "loss" in front.names else front.names[-1]
    costs = [name for name in front.names if name != y]
    return (costs[0] if costs else y), y


def _all(point: Point) -> dict[str, Estimate]:
    """The point's values: measured where measured."""
    return {**point.predicted, **point.measured}


def _spread(points: list[Point], most: int) -> list[Point]:
    """At most ``most`` points, evenly spread, both ends kept."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _error_bars(estimates: Iterable[Estimate]) -> dict[str, object]:
    return {
        "type": "data",
        "array": [e.stderr for e in estimates],
        "color": "rgba(209,73,91,.5)",
        "thickness": 1.2,
        "width": 0,
    }


def _axis_type(values: Sequence[float]) -> str:
    """``log`` where all values are positive and span more than a decade and a half."""
    if not values or min(values) <= 0:
        return "linear"
    return "log" if max(values) / min(values) > 30 else "linear"


def _vertical(measured: Sequence[float], predicted: Sequence[float]) -> dict[str, object]:
    """An axis that shows what was measured; far higher predictions of a linear one run out of it."""
    kind = _axis_type([*measured, *predicted])
    if kind == "log" or not measured:
        return {"type": kind}
    low, high = min([*measured, *predicted]), max(measured)
    if max(predicted, default=high) < low + 2 * (high - low):
        return {"type": kind}
    pad = 0.12 * (high - low)
    return {"type": kind, "range": [low - pad, high + pad]}


def _hover(
    word: str, assignment: Sequence[int], values: Mapping[str, Estimate], front: Front
) -> str:
    lines = [f"<b>{label(word)}</b>"]
    lines += [f"{objective_title(name)} {with_error(value)}" for name, value in values.items()]
    return "<br>".join([*lines, "", histogram(assignment, front.schemes)])


def _add_rows(figure: go.Figure, rows: list[PlanRow], x: str, y: str, front: Front) -> None:
    """Uniform plans: filled where measured, hollow where predicted only."""
    places = [row_value(row, x) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: places[i] or 0.0)
    positions = {id(rows[i]): ("top center", "bottom center")[n % 2] for n, i in enumerate(order)}
    for word, symbol in (("measured", "diamond"), ("predicted", "diamond-open")):
        shown = [
            (row, at, values[y])
            for row, at in zip(rows, places, strict=True)
            for values in [row.measured if word == "measured" else row.predicted]
            if at is not None and y in values and (word == "measured") == (y in row.measured)
        ]
        if not shown:
            continue
        figure.add_scatter(
            x=[at for _, at, _ in shown],
            y=[value.mean for _, _, value in shown],
            error_y=_error_bars(value for _, _, value in shown) | {"color": "rgba(0,114,178,.5)"},
            mode="markers+text",
            name=f"plans to compare ({word})",
            text=[f"&nbsp;&nbsp;{label(row.label, 24)}&nbsp;&nbsp;" for row, _, _ in shown],
            textposition=[positions[id(row)] for row, _, _ in shown],
            cliponaxis=False,
            textfont={"family": MONO, "size": 11},
            marker={"symbol": symbol, "size": 11, "color": "#0072b2"},
            hovertext=[
                _hover(
                    f"{row.label}, {word}",
                    row.assignment or (),
                    {**row.predicted, **row.measured},
                    front,
                )
                for row, _, _ in shown
            ],
            hoverinfo="text",
        )
