"""How well a sensitivity table predicts: the self-test drawn."""

import numpy as np
import plotly.graph_objects as go

from mpsearch.figures.theme import GREY, MEASURED, PREDICTED, objective_title, template
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.stats.digits import with_error
from mpsearch.stats.estimates import Bools, Estimate


def self_test_figure(found: SelfTest, *, unit: str = "") -> go.Figure:
    """Draw predicted against measured losses; plans that are saturated are marked and pale.

    Args:
        found: The self-test.
        unit: Unit of the loss.
    """
    figure = go.Figure()
    random = ~found.along_front
    kinds: list[tuple[str, Bools, dict[str, object]]] = [
        ("random plans", random & ~found.saturated, {"color": MEASURED, "size": 7}),
        ("saturated", random & found.saturated, {"color": GREY, "size": 7, "symbol": "x"}),
        ("along the front", found.along_front, {"color": PREDICTED, "size": 9}),
    ]
    positive = bool((found.predicted > 0).all() and (found.measured > 0).all())
    ends = [float(f(x)) for f, x in ((np.min, found.measured), (np.max, found.measured)) if len(x)]
    if ends:
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="predicted = measured",
            line={"color": GREY, "width": 1, "dash": "dash"},
            hoverinfo="skip",
        )
    for name, some, marker in kinds:
        if not some.any():
            continue
        measured = list(map(Estimate, found.measured[some].tolist(), found.stderr[some].tolist()))
        figure.add_scatter(
            x=found.predicted[some].tolist(),
            y=[e.mean for e in measured],
            error_y={"type": "data", "array": [e.stderr for e in measured], "thickness": 0.7},
            mode="markers",
            name=name,
            marker=marker,
            hovertext=[
                f"predicted {with_error(Estimate(p))}<br>measured&nbsp; {with_error(e)}"
                for p, e in zip(found.predicted[some].tolist(), measured, strict=True)
            ],
            hoverinfo="text",
        )
    kind = "log" if positive else "linear"
    title = objective_title("loss", unit)
    figure.update_layout(
        template=template(),
        showlegend=True,
        height=460,
        xaxis={"title": {"text": f"predicted {title}"}, "type": kind},
        yaxis={"title": {"text": f"measured {title}"}, "type": kind},
        hovermode="closest",
    )
    return figure
