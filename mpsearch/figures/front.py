"""The front, and how far its predictions can be trusted, drawn by plotly.

Predicted and measured values never share a trace, a marker or a word.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from mpsearch.figures.plan_row import PlanRow
from mpsearch.figures.shown.front import Mark, ShownFront, show_front
from mpsearch.figures.shown.scale import Scale, padded
from mpsearch.figures.shown.trust import show_trust
from mpsearch.figures.theme import (
    CHOSEN,
    COMPARED,
    GREY,
    MEASURED,
    MONO,
    PREDICTED,
    label,
    objective_title,
    template,
)
from mpsearch.problem.front import Front, Point
from mpsearch.stats.digits import with_error
from mpsearch.stats.estimates import Estimate

_HEIGHT = 520
_MOST_CHANGES = 4  # of a hover text
_WIDE, _NARROW = (860.0, 390.0), (250.0, 330.0)  # pixels inside the axes, where labels are placed


def plot_front(
    front: Front,
    *,
    rows: Sequence[PlanRow] = (),
    chosen: Point | None = None,
    unit: str = "",
    objectives: tuple[str, str] | None = None,
    colour: str = "",
    key: Callable[[tuple[int, ...]], str] | None = None,
) -> go.Figure:
    """Draw a front: its predicted line, its measured points with standard errors, plans to compare.

    Args:
        front: The front; points may be predicted, measured or both.
        rows: Uniform plans to mark; rows without an assignment have no place on a front.
        chosen: The point to star.
        unit: Unit of ``loss``, for the axis.
        objectives: (horizontal, vertical); by default the first cost of the front, and ``loss``.
        colour: A third objective that colours points; "" is none.
        key: Assignment to what events of a page call it; None gives points no names.
    """
    shown = show_front(front, rows=rows, chosen=chosen, unit=unit, objectives=objectives)
    place, y = shown.scale.place, label(shown.y)
    figure = go.Figure()
    if shown.predicted:
        figure.add_scatter(
            **_places(shown.predicted, shown, errors=""),
            mode="lines+markers" if len(shown.predicted) <= 80 else "lines",
            name=f"predicted {y}",
            line={"color": PREDICTED, "width": 1.5, "dash": "dot"},
            marker={"size": 4, "color": PREDICTED} | _by_value(shown.predicted, colour),
            hovertext=_hovers("predicted", shown.predicted, front),
            customdata=_keys(shown.predicted, key),
        )
    if shown.shifts:
        figure.add_scatter(
            x=[v for at, _, _ in shown.shifts for v in (at, at, None)],
            y=[v for _, low, high in shown.shifts for v in (place(low), place(high), None)],
            mode="lines",
            line={"color": GREY, "width": 1},
            opacity=0.5,
            hoverinfo="skip",
            showlegend=False,
        )
    if shown.measured:
        figure.add_scatter(
            **_places(shown.measured, shown, errors="rgba(209,73,91,.5)"),
            mode="markers",
            name=f"measured {y} ± standard error",
            marker={"size": 9, "color": MEASURED, "line": {"width": 1, "color": "#ffffff"}}
            | _by_value(shown.measured, colour),
            hovertext=_hovers("measured", shown.measured, front),
            customdata=_keys(shown.measured, key),
        )
    for word, symbol in (("measured", "diamond"), ("predicted", "diamond-open")):
        some = [mark for mark in shown.rows if mark.word == word]
        if some:
            figure.add_scatter(
                **_places(some, shown, errors="rgba(0,114,178,.5)"),
                mode="markers",
                name=f"plans to compare ({word})",
                marker={"symbol": symbol, "size": 11, "color": COMPARED},
                hovertext=[_hover(f"{mark.label}, {word}", mark, front) for mark in some],
                customdata=_keys(some, key),
            )
    if shown.chosen is not None:
        figure.add_scatter(
            **_places([shown.chosen], shown, errors=""),
            mode="markers",
            name=f"chosen plan ({shown.chosen.word})",
            marker={
                "symbol": "star",
                "size": 19,
                "color": CHOSEN,
                "line": {"width": 1.5, "color": "#5b4300"},
            },
            hovertext=[_hover(f"chosen, {shown.chosen.word}", shown.chosen, front)],
            customdata=_keys([shown.chosen], key),
        )
    low, high = shown.y_range
    figure.update_layout(
        template=template(),
        height=_HEIGHT,
        showlegend=True,
        xaxis={
            "title": {"text": objective_title(shown.x, unit)},
            "range": list(shown.x_range),
        },
        yaxis={
            "title": {"text": objective_title(shown.y, unit)},
            "range": [low, high],
        }
        | _ticks(shown.scale, low, high),
        hovermode="closest",
        annotations=_labels(shown, _WIDE, 26),
        coloraxis={"colorbar": _colour_bar(colour)} if colour else None,
        meta={"narrow": {"annotations": _labels(shown, _NARROW, 14), "height": 620}},
    )
    return figure


def trust_figure(front: Front, *, objective: str = "loss", unit: str = "") -> go.Figure:
    """Draw predicted against measured values of the points that have both.

    Points on the diagonal were predicted rightly; a rising cloud was at least ranked rightly.
    """
    shown = show_trust(front, objective)
    scale, figure = shown.scale, go.Figure()
    if shown.ends is not None:
        ends = [scale.place(end) for end in shown.ends]
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="predicted = measured",
            line={"color": GREY, "width": 1, "dash": "dash"},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[scale.place(e.mean) for e in shown.predicted],
            y=[scale.place(e.mean) for e in shown.measured],
            error_x=_error_bars(shown.predicted, scale, "rgba(209,73,91,.5)"),
            error_y=_error_bars(shown.measured, scale, "rgba(209,73,91,.5)"),
            mode="markers",
            name="front points",
            marker={"size": 9, "color": MEASURED, "line": {"width": 1, "color": "#ffffff"}},
            hovertext=[
                f"predicted {with_error(predicted)}<br>measured&nbsp; {with_error(measured)}"
                f"<br>{histogram(assignment, front.schemes)}"
                for predicted, measured, assignment in zip(
                    shown.predicted, shown.measured, shown.assignments, strict=True
                )
            ],
            hoverinfo="text",
        )
    low, high = padded(map(scale.place, shown.ends or ()))
    title = objective_title(objective, unit)
    axis = {"range": [low, high]} | _ticks(scale, low, high)
    figure.update_layout(
        template=template(),
        height=460,
        showlegend=True,
        xaxis={"title": {"text": f"predicted {title}"}} | axis,
        yaxis={"title": {"text": f"measured {title}"}} | axis,
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
        padded = label(name) + "\N{NO-BREAK SPACE}" * (width - len(name))
        lines.append(f"{padded} {bar} {counts[name]}")
    return "<br>".join(lines)


def _places(marks: Sequence[Mark], shown: ShownFront, *, errors: str) -> dict[str, Any]:
    """A trace's points, with error bars of the colour ``errors``; "" draws none."""
    found: dict[str, Any] = {
        "x": [mark.x for mark in marks],
        "y": [shown.scale.place(mark.y.mean) for mark in marks],
        "hoverinfo": "text",
    }
    if errors:
        found["error_y"] = _error_bars((mark.y for mark in marks), shown.scale, errors)
    return found


def _error_bars(estimates: Iterable[Estimate], scale: Scale, colour: str) -> dict[str, object]:
    reach = [scale.error(*estimate) for estimate in estimates]
    return {
        "type": "data",
        "symmetric": False,
        "array": [above for _, above in reach],
        "arrayminus": [below for below, _ in reach],
        "color": colour,
        "thickness": 1.2,
        "width": 0,
    }


def _ticks(scale: Scale, low: float, high: float) -> dict[str, object]:
    """What an axis must be told where it does not find its own ticks."""
    ticks = scale.ticks(low, high)
    if not ticks:
        return {}
    return {"tickvals": [at for at, _ in ticks], "ticktext": [text for _, text in ticks]}


def _labels(shown: ShownFront, size: tuple[float, float], limit: int) -> list[dict[str, Any]]:
    """Names of the plans to compare, each where it covers nothing; those without room are left to the hover."""
    texts = [label(mark.label.removeprefix("uniform "), limit) for mark in shown.rows]
    offsets = shown.label_offsets(*size, texts)
    return [
        {
            "x": mark.x,
            "y": shown.scale.place(mark.y.mean),
            "text": text,
            "ax": offset[0],
            "ay": -offset[1],
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 0.7,
            "arrowcolor": GREY,
            "standoff": 6,
            "font": {"family": MONO, "size": 11},
        }
        for mark, text, offset in zip(shown.rows, texts, offsets, strict=True)
        if offset is not None
    ]


def _hovers(word: str, marks: Sequence[Mark], front: Front) -> list[str]:
    """Hover texts of points along the front; each says which layers differ from the one before."""
    before = [None, *marks[:-1]]
    return [
        _hover(word, mark, front) + (_difference(other, mark, front) if other is not None else "")
        for other, mark in zip(before, marks, strict=True)
    ]


def _difference(before: Mark, mark: Mark, front: Front) -> str:
    """Which groups a point decides otherwise than the one before it."""
    pairs = zip(front.groups, before.assignment, mark.assignment, strict=True)
    changed = [
        f"{label(name, 30)}: {label(front.schemes[a])} → {label(front.schemes[b])}"
        for name, a, b in pairs
        if a != b
    ]
    rest = f"<br>and {len(changed) - _MOST_CHANGES} more" if len(changed) > _MOST_CHANGES else ""
    if not changed:
        return ""
    return (
        "<br><br>differs from the one before in<br>" + "<br>".join(changed[:_MOST_CHANGES]) + rest
    )


def _keys(marks: Sequence[Mark], key: Callable[[tuple[int, ...]], str] | None) -> list[str] | None:
    return None if key is None else [key(mark.assignment) for mark in marks]


def _by_value(marks: Sequence[Mark], name: str) -> dict[str, Any]:
    """What colours markers by an objective, if all have it."""
    if not name or not all(name in mark.values for mark in marks):
        return {}
    return {
        "color": [mark.values[name].mean for mark in marks],
        "coloraxis": "coloraxis",
        "size": 9,
    }


def _colour_bar(name: str) -> dict[str, Any]:
    title = {"text": objective_title(name), "side": "right"}
    return {"title": title, "thickness": 12, "outlinewidth": 0}


def _hover(word: str, mark: Mark, front: Front) -> str:
    lines = [f"<b>{label(word)}</b>", *_figures(mark.values)]
    return "<br>".join([*lines, "", histogram(mark.assignment, front.schemes)])


def _figures(values: Mapping[str, Estimate]) -> list[str]:
    return [f"{objective_title(name)} {with_error(value)}" for name, value in values.items()]
