"""The report's figures as svg, png or pdf, by matplotlib (extra ``plot``)."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mpsearch.artifacts import write_bytes
from mpsearch.errors import MissingExtraError, UnknownNameError
from mpsearch.figures.comparison import find_row
from mpsearch.figures.content import Report
from mpsearch.figures.plan_row import predicted_line, row_value
from mpsearch.figures.theme import (
    GREY,
    MEASURED,
    PREDICTED,
    is_hatched,
    number,
    plain_objective_title,
    plain_short_names,
    scheme_colours,
)
from mpsearch.stats.estimates import Estimate, Floats

FIGURES = ("front", "sensitivity", "plan", "trust")
_PLACES = ((7, 3), (7, -11), (7, 16), (-7, 3), (-7, -11), (7, -24))  # of a label, in points
_FORMATS = (".svg", ".png", ".pdf")


def write_figure(path: Path, figure: str, report: Report) -> None:
    """Draw one of :data:`FIGURES` to ``path``, atomically; the suffix says the format.

    Raises:
        UnknownNameError: No such figure, or no such format; or there is no chosen plan to draw.
        MissingExtraError: matplotlib is not installed.
    """
    drawers = {"front": _front, "sensitivity": _sensitivity, "plan": _plan, "trust": _trust}
    if figure not in drawers:
        raise UnknownNameError(f"figure must be one of {', '.join(FIGURES)}; got {figure!r}")
    if path.suffix not in _FORMATS:
        raise UnknownNameError(
            f"the file must end in one of {', '.join(_FORMATS)}; got {path.name!r}"
        )
    if figure == "plan" and report.chosen is None:
        raise UnknownNameError("there is no chosen plan to draw; choose one first")
    pyplot = _pyplot()
    style = {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "xtick.color": "#4d535b",
        "ytick.color": "#4d535b",
        "svg.hashsalt": "mpsearch",  # the same figure, the same bytes
        "text.parse_math": False,  # layer names may hold dollar signs
        "hatch.linewidth": 0.5,
    }
    with pyplot.rc_context(style):
        drawn = drawers[figure](pyplot, report)
        buffer = BytesIO()
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[path.suffix]
        drawn.savefig(
            buffer, format=path.suffix[1:], dpi=160, bbox_inches="tight", metadata=metadata
        )
        pyplot.close(drawn)
    write_bytes(path, buffer.getvalue())


def _pyplot() -> ModuleType:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "static figures need matplotlib; install it with: pip install 'mpsearch[plot]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _front(pyplot: ModuleType, report: Report) -> Any:
    front = report.front
    y = "loss" if "loss" in front.names else front.names[-1]
    x = next((name for name in front.names if name != y), y)
    chosen = find_row(report)
    figure, axes = pyplot.subplots(figsize=(7, 4.4))
    points = sorted(front.points, key=lambda p: p.value(x).mean)
    predicted = predicted_line(points, x, y)
    measured = [p for p in points if y in p.measured]
    axes.plot(
        [p.value(x).mean for p in predicted],
        [p.predicted[y].mean for p in predicted],
        ":",
        color=PREDICTED,
        label=f"predicted {y}",
    )
    _bars(axes, measured, x, y, f"measured {y} ± standard error")
    labels = []
    for row in report.rows:
        at = (row_value(row, x), row_value(row, y))
        if row.assignment is not None and row is not chosen and None not in at:
            face = "#0072b2" if y in row.measured else "none"
            axes.plot(*at, "D", color="#0072b2", markerfacecolor=face, markersize=6)
            word = "" if y in row.measured else " (predicted)"
            labels.append((row.label + word, at))
    if report.chosen is not None:
        at = (report.chosen.value(x).mean, report.chosen.value(y).mean)
        word = "measured" if y in report.chosen.measured else "predicted"
        axes.plot(
            *at,
            "*",
            color="#f2b705",
            markeredgecolor="#5b4300",
            markersize=15,
            zorder=5,
            label=f"chosen plan{f': {chosen.label}' if chosen else ''} ({word})",
        )
    _scale(axes.set_yscale, axes.yaxis, [p.value(y).mean for p in front.points])
    axes.set_xlabel(plain_objective_title(x, report.table.unit))
    axes.set_ylabel(plain_objective_title(y, report.table.unit))
    axes.grid(color="#e7e9ed", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    _label(figure, axes, labels)
    return figure


def _label(figure: Any, axes: Any, labels: Sequence[tuple[str, tuple[Any, Any]]]) -> None:
    """Write texts beside their points, each at the first place that no other text takes."""
    taken: list[Any] = []
    for text, at in labels:
        for place in _PLACES:
            side = "left" if place[0] > 0 else "right"
            written = axes.annotate(
                text, at, xytext=place, textcoords="offset points", fontsize=8, ha=side
            )
            box = written.get_window_extent(figure.canvas.get_renderer())
            if not any(box.overlaps(other) for other in taken) or place == _PLACES[-1]:
                taken.append(box)
                break
            written.remove()


def _sensitivity(pyplot: ModuleType, report: Report) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    table, allowed = report.table, report.allowed
    positive = table.values[allowed & (table.values > 0)]
    top = float(positive.max()) if positive.size else 1.0
    low = max(float(positive.min()), top * 1e-5) if positive.size else 0.1
    if low >= top:
        low = top / 10
    values = np.ma.masked_array(np.clip(table.values, low, top), ~allowed)
    rows = len(table.groups)
    height = min(120.0, 1 + 0.17 * rows)
    figure, axes = pyplot.subplots(figsize=(2.2 + 0.95 * len(table.schemes), height))
    colours = LinearSegmentedColormap.from_list(
        "fragile", ["#f6f3ee", "#e58b6d", "#7a1530"]
    ).with_extremes(bad="#dddfe2")
    shown = axes.imshow(
        values, cmap=colours, norm=LogNorm(low, top), aspect="auto", interpolation="nearest"
    )
    refused = np.argwhere(~allowed)
    axes.plot(refused[:, 1], refused[:, 0], "x", color=GREY, markersize=4, label="not allowed")
    if report.chosen is not None:
        axes.plot(
            report.chosen.assignment,
            range(rows),
            "o",
            markersize=4,
            markerfacecolor="white",
            markeredgecolor="#14171c",
            label="chosen",
        )
    axes.set_xticks(range(len(table.schemes)), table.schemes)
    axes.xaxis.tick_top()
    axes.set_yticks(range(rows), plain_short_names(table.groups, 40), fontsize=6.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    text = f"{table.metric}, predicted ({table.unit})"
    figure.colorbar(shown, ax=axes, label=text, shrink=0.5, format=_tick)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 0), ncols=2)
    return figure


def _plan(pyplot: ModuleType, report: Report) -> Any:
    assert report.chosen is not None
    assignment, schemes = report.chosen.assignment, report.front.schemes
    colours = scheme_colours(schemes)
    strips = _strips(report, assignment)
    figure, axes = pyplot.subplots(figsize=(9, 0.7 + 0.5 * len(strips)))
    for at, sizes in enumerate(strips.values()):
        shares = 100 * sizes / sizes.sum()
        starts = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
        for g, s in enumerate(assignment):
            axes.barh(
                at,
                shares[g],
                left=starts[g],
                height=0.72,
                color=colours[schemes[s]],
                edgecolor="white",
                linewidth=0.4,
                hatch="///" if is_hatched(schemes[s]) else None,
            )
    used = [s for s in range(len(schemes)) if s in assignment]
    handles = [
        pyplot.Rectangle(
            (0, 0),
            1,
            1,
            facecolor=colours[schemes[s]],
            edgecolor="white",
            hatch="///" if is_hatched(schemes[s]) else None,
        )
        for s in used
    ]
    counts = [f"{schemes[s]} · {sum(a == s for a in assignment)}" for s in used]
    axes.legend(
        handles, counts, frameon=False, ncols=len(used), loc="lower left", bbox_to_anchor=(0, 1)
    )
    axes.set_yticks(range(len(strips)), list(strips))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share in %, groups in schedule order")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _trust(pyplot: ModuleType, report: Report) -> Any:
    both = [p for p in report.front.points if "loss" in p.predicted and "loss" in p.measured]
    figure, axes = pyplot.subplots(figsize=(5, 4.6))
    values = [v for p in both for v in (p.predicted["loss"].mean, p.measured["loss"].mean)]
    if both:
        ends = [min(values), max(values)]
        axes.plot(ends, ends, "--", color=GREY, linewidth=1, label="predicted = measured")
        _errors(
            axes,
            [p.predicted["loss"].mean for p in both],
            [p.measured["loss"] for p in both],
            "front points",
        )
        axes.legend(frameon=False, fontsize=8)
    _scale(axes.set_xscale, axes.xaxis, values)
    _scale(axes.set_yscale, axes.yaxis, values)
    if report.rank_correlation is not None:
        rho, n = report.rank_correlation
        axes.set_title(f"Spearman {rho:.2f} over {n} points", fontsize=9, loc="left")
    title = plain_objective_title("loss", report.table.unit)
    axes.set_xlabel(f"predicted {title}")
    axes.set_ylabel(f"measured {title}")
    axes.grid(color="#e7e9ed", linewidth=0.6)
    return figure


def _strips(report: Report, assignment: Sequence[int]) -> dict[str, Floats]:
    """Strip title to [G] sizes."""
    layers, groups = report.graph.layers, report.graph.groups
    chosen = np.asarray(assignment)
    index = np.arange(len(chosen))
    flops = [float(sum(layers[i].flops for i in group.layers)) for group in groups]
    sizes = {
        "groups": np.ones(len(chosen)),
        "parameters": report.costs.parameters.astype(np.float64),
        "FLOPs": np.array(flops),
    }
    if "latency_us" in report.costs.objectives:
        sizes["latency"] = report.costs.objectives["latency_us"][index, chosen]
    sizes["predicted loss"] = np.maximum(report.table.values[index, chosen], 0)
    return {title: size for title, size in sizes.items() if size.sum() > 0}


def _bars(axes: Any, points: Sequence[Any], x: str, y: str, text: str) -> None:
    _errors(axes, [p.value(x).mean for p in points], [p.measured[y] for p in points], text)


def _errors(axes: Any, x: Sequence[float], y: Sequence[Estimate], text: str) -> None:
    if x:
        axes.errorbar(
            x,
            [e.mean for e in y],
            [e.stderr for e in y],
            fmt="o",
            color=MEASURED,
            ecolor="#e6a3ad",
            markersize=5,
            elinewidth=1,
            label=text,
        )


def _scale(set_scale: Any, axis: Any, values: Sequence[float]) -> None:
    if values and min(values) > 0 and max(values) / min(values) > 30:
        set_scale("log")
        axis.set_major_formatter(_tick)


def _tick(value: float, _: int) -> str:
    return number(value, 1)
