"""The summary of many runs as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from mpsearch.artifacts import write_text
from mpsearch.figures.theme import MEASURED
from mpsearch.jobs.batches.planned import Outcome
from mpsearch.jobs.batches.summary import FrontPoint, Summary
from mpsearch.report.page import render_page
from mpsearch.stats.digits import number


def write_summary(path: Path, summary: Summary, outcomes: Sequence[Outcome] = ()) -> None:
    """Write ``summary`` to ``path`` as a page that runs offline, atomically.

    Args:
        path: The file.
        summary: What runs found.
        outcomes: Runs that did not finish.
    """
    fronts = list(summary.fronts.items())
    figures = {f"front{i}": _figure(points) for i, (_, points) in enumerate(fronts)}
    page = render_page(
        "summary.html.j2",
        "Runs side by side",
        figures,
        summary=summary,
        fronts=fronts,
        outcomes=outcomes,
        number=number,
    )
    write_text(path, page)


def _figure(points: Sequence[FrontPoint]) -> go.Figure:
    figure = go.Figure()
    figure.add_scatter(
        x=[point.latency_us for point in points],
        y=[point.loss for point in points],
        error_y={"array": [point.loss_stderr for point in points]},
        mode="markers+lines",
        line={"shape": "hv", "width": 1, "color": MEASURED},
        marker={"size": 7, "color": MEASURED},
        name="measured loss ± standard error",
        hovertext=[point.run for point in points],
    )
    figure.update_layout(
        xaxis_title="latency (µs, modelled)", yaxis_title="loss (measured)", height=420
    )
    return figure
