"""How a search went: what it found for what it spent."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from mpsearch.figures.theme import MEASURED, label, template
from mpsearch.problem.front import Front


def hypervolume_curve(front: Front) -> list[tuple[float, float]]:
    """Return (evaluations spent, share of the final hypervolume); nothing where the search kept no history."""
    if not front.history:
        return []
    values = np.array([step.values for step in front.history])
    curve = front.hypervolume_history(values.max(axis=0))
    last = curve[-1][1]
    return [(spent, volume / last if last else 1.0) for spent, volume in curve]


def progress_figure(front: Front) -> go.Figure:
    """Draw the hypervolume by evaluations spent, as a share of what it is at the end."""
    curve = hypervolume_curve(front)
    figure = go.Figure()
    figure.add_scatter(
        x=[spent for spent, _ in curve],
        y=[100 * share for _, share in curve],
        mode="lines+markers",
        line={"color": MEASURED, "shape": "hv"},
        name="hypervolume",
    )
    figure.update_layout(
        template=template(),
        height=380,
        xaxis={"title": {"text": "evaluations spent"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "hypervolume, % of the last"}, "rangemode": "tozero"},
    )
    return figure


def stages_figure(seconds: Mapping[str, float]) -> go.Figure:
    """Draw what each stage of a run took."""
    figure = go.Figure()
    names = list(seconds)
    figure.add_bar(
        x=[seconds[name] for name in names],
        y=[label(name) for name in names],
        orientation="h",
        marker={"color": MEASURED},
        text=[f"{seconds[name]:.1f} s" for name in names],
        textposition="auto",
    )
    figure.update_layout(
        template=template(),
        height=110 + 26 * len(names),
        xaxis={"title": {"text": "seconds"}},
        yaxis={"autorange": "reversed"},
    )
    return figure
