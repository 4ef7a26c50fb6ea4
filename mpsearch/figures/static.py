"""The report's figures as svg, png or pdf, by matplotlib (extra ``plot``)."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mpsearch.artifacts import write_bytes
from mpsearch.errors import MissingExtraError, UnknownNameError
from mpsearch.figures.comparison import compare, find_row
from mpsearch.figures.content import Report
from mpsearch.figures.layers import pair_cost
from mpsearch.figures.ranges import shown_shares
from mpsearch.figures.shown.front import show_front
from mpsearch.figures.shown.heat_map import show_table
from mpsearch.figures.shown.scale import Scale, padded
from mpsearch.figures.shown.strips import show_plan
from mpsearch.figures.shown.trust import show_trust
from mpsearch.figures.theme import (
    COMPARED,
    GREY,
    MEASURED,
    PREDICTED,
    is_hatched,
    plain_objective_title,
    plain_short_names,
    scheme_colours,
)
from mpsearch.stats.estimates import Estimate

FIGURES = ("front", "sensitivity", "plan", "trust", "cost", "ranges")
_NEED_A_PLAN = ("plan", "cost")
_FORMATS = (".svg", ".png", ".pdf")


def write_figure(path: Path, figure: str, report: Report) -> None:
    """Draw one of :data:`FIGURES` to ``path``, atomically; the suffix says the format.

    Raises:
        UnknownNameError: No such figure, or no such format; or there is no chosen plan to draw.
        MissingExtraError: matplotlib is not installed.
    """
    drawers = {
        "front": _front,
        "sensitivity": _sensitivity,
        "plan": _plan,
        "trust": _trust,
        "cost": _cost,
        "ranges": _ranges,
    }
    if figure not in drawers:
        raise UnknownNameError(f"figure must be one of {', '.join(FIGURES)}; got {figure!r}")
    if path.suffix not in _FORMATS:
        raise UnknownNameError(
            f"the file must end in one of {', '.join(_FORMATS)}; got {path.name!r}"
        )
    if figure in _NEED_A_PLAN and report.chosen is None:
        raise UnknownNameError("there is no chosen plan to draw; choose one first")
    if figure == "cost" and "latency_us" not in report.costs.objectives:
        raise UnknownNameError("there is no latency to draw: the run's device has none")
    if figure == "ranges" and not report.ranges:
        raise UnknownNameError(
            "there are no ranges to draw: `mpsearch ranges RUN --model MODEL --data DATA` looks at them"
        )
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
    chosen = find_row(report)
    rows = [row for row in report.rows if row is not chosen]
    shown = show_front(report.front, rows=rows, chosen=report.chosen, unit=report.table.unit)
    figure, axes = pyplot.subplots(figsize=(7, 4.4))
    place = shown.scale.place
    axes.plot(
        [mark.x for mark in shown.predicted],
        [place(mark.y.mean) for mark in shown.predicted],
        ":",
        color=PREDICTED,
        label=f"predicted {shown.y}",
    )
    _errors(
        axes,
        [mark.x for mark in shown.measured],
        [mark.y for mark in shown.measured],
        shown.scale,
        f"measured {shown.y} ± standard error",
    )
    for mark in shown.rows:
        face = COMPARED if mark.word == "measured" else "none"
        axes.plot(
            mark.x, place(mark.y.mean), "D", color=COMPARED, markerfacecolor=face, markersize=6
        )
    if shown.chosen is not None:
        name = f": {chosen.label}" if chosen else ""
        axes.plot(
            shown.chosen.x,
            place(shown.chosen.y.mean),
            "*",
            color="#f2b705",
            markeredgecolor="#5b4300",
            markersize=15,
            zorder=5,
            label=f"chosen plan{name} ({shown.chosen.word})",
        )
    axes.set_xlim(shown.x_range)
    axes.set_ylim(shown.y_range)
    _ticks(axes.yaxis, shown.scale, *shown.y_range)
    axes.set_xlabel(plain_objective_title(shown.x, shown.unit))
    axes.set_ylabel(plain_objective_title(shown.y, shown.unit))
    axes.grid(color="#e7e9ed", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    box = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    texts = [
        mark.label + ("" if mark.word == "measured" else " (predicted)") for mark in shown.rows
    ]
    inch = 100.0  # pixels that labels are placed in; a letter of 8 points is about as wide in both
    offsets = shown.label_offsets(box.width * inch, box.height * inch, texts)
    for mark, text, offset in zip(shown.rows, texts, offsets, strict=True):
        if offset is not None:
            axes.annotate(
                text,
                (mark.x, place(mark.y.mean)),
                xytext=(offset[0] * 72 / inch, offset[1] * 72 / inch),
                textcoords="offset points",
                fontsize=8,
                ha="center",
                va="center",
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkB": 5},
            )
    return figure


def _sensitivity(pyplot: ModuleType, report: Report) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    table = report.table
    chosen = report.chosen.assignment if report.chosen is not None else None
    seen = show_table(table, allowed=report.allowed, chosen=chosen)
    rows = len(seen.groups)
    height = min(120.0, 1 + 0.17 * rows)
    figure, axes = pyplot.subplots(figsize=(2.2 + 0.95 * len(seen.schemes), height))
    colours = LinearSegmentedColormap.from_list(
        "fragile", ["#f6f3ee", "#e58b6d", "#7a1530"]
    ).with_extremes(bad="#dddfe2")
    values = np.ma.masked_array(seen.colour, ~seen.allowed)
    shown = axes.imshow(values, cmap=colours, aspect="auto", interpolation="nearest")
    axes.plot(
        [s for _, s in seen.refused],
        [g for g, _ in seen.refused],
        "x",
        color=GREY,
        markersize=4,
        label="not allowed",
    )
    if seen.chosen:
        axes.plot(
            seen.chosen,
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
    bar = figure.colorbar(shown, ax=axes, label=text, shrink=0.5)
    bar.set_ticks([at for at, _ in seen.ticks], labels=[said for _, said in seen.ticks])
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 0), ncols=2)
    return figure


def _plan(pyplot: ModuleType, report: Report) -> Any:
    assert report.chosen is not None
    assignment, schemes = report.chosen.assignment, report.front.schemes
    colours = scheme_colours(schemes)
    shown = show_plan(report.graph, assignment, costs=report.costs, table=report.table)
    figure, axes = pyplot.subplots(figsize=(9, 0.7 + 0.5 * len(shown.strips)))
    for at, strip in enumerate(shown.strips):
        for s, share, start in zip(shown.schemes, strip.shares, strip.starts, strict=True):
            axes.barh(
                at,
                share,
                left=start,
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
    counts = [f"{schemes[s]} · {shown.schemes.count(s)}" for s in used]
    axes.legend(
        handles, counts, frameon=False, ncols=len(used), loc="lower left", bbox_to_anchor=(0, 1)
    )
    axes.set_yticks(range(len(shown.strips)), [strip.title for strip in shown.strips])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share in %, layers in schedule order")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _cost(pyplot: ModuleType, report: Report) -> Any:
    assert report.chosen is not None
    costs, assignment = report.costs, report.chosen.assignment
    latency, colours = costs.objectives["latency_us"], scheme_colours(costs.schemes)
    groups = len(costs.groups)
    figure, axes = pyplot.subplots(figsize=(min(24.0, 3 + 0.11 * groups), 4.2))
    for s, name in enumerate(costs.schemes):
        mine = [g for g in range(groups) if assignment[g] == s]
        if mine:
            axes.bar(
                mine,
                latency[mine, s],
                color=colours[name],
                edgecolor="white",
                linewidth=0.3,
                hatch="///" if is_hatched(name) else None,
                label=name,
            )
    paid = pair_cost(costs, assignment, "latency_us")
    axes.bar([groups], [paid], color=GREY, label="between layers")
    comparison = compare(report)
    if comparison is not None and comparison.uniform.assignment is not None:
        other = comparison.uniform.assignment
        axes.plot(
            range(groups + 1),
            [*latency[range(groups), other], pair_cost(costs, other, "latency_us")],
            "_",
            color="#14171c",
            markersize=5,
            label=comparison.uniform.label,
        )
    if groups <= 24:
        names = [*plain_short_names(costs.groups, 34), "between layers"]
        axes.set_xticks(range(groups + 1), names, rotation=60, ha="right", fontsize=7)
    else:
        numbers = range(0, groups, max(1, 5 * round(groups / 60)))
        axes.set_xticks(numbers, [str(i + 1) for i in numbers])
        axes.set_xlabel("groups in schedule order; the last bar is paid between layers")
    axes.set_ylabel("modelled latency (µs)")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    return figure


def _ranges(pyplot: ModuleType, report: Report) -> Any:
    layers = report.ranges
    colour, low, high = shown_shares(layers)
    figure, axes = pyplot.subplots(figsize=(8, min(120.0, 1.2 + 0.17 * len(layers))))
    step = (high - low) / max(colour.shape[1] - 1, 1)
    seen = axes.imshow(
        np.ma.masked_invalid(colour),
        cmap="Greys",
        aspect="auto",
        interpolation="nearest",
        extent=(low - step / 2, high + step / 2, len(layers) - 0.5, -0.5),
    )
    every = dict.fromkeys(name for layer in layers for name in layer.clips)
    for name, shade in scheme_colours(list(every)).items():
        at = [i for i, layer in enumerate(layers) if name in layer.clips]
        places = [float(np.log2(layers[i].clips[name])) for i in at]
        axes.plot(places, at, "|", color=shade, markersize=7, markeredgewidth=2, label=name)
    axes.set_yticks(
        range(len(layers)), plain_short_names([la.layer for la in layers], 40), fontsize=6.5
    )
    axes.set_xlabel("log2 of magnitude; marks: the largest that a scheme holds")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    figure.colorbar(seen, ax=axes, label="log10 of the share of elements", shrink=0.6)
    return figure


def _trust(pyplot: ModuleType, report: Report) -> Any:
    shown = show_trust(report.front)
    scale = shown.scale
    figure, axes = pyplot.subplots(figsize=(5, 4.6))
    if shown.ends is not None:
        ends = [scale.place(end) for end in shown.ends]
        axes.plot(ends, ends, "--", color=GREY, linewidth=1, label="predicted = measured")
        places = [scale.place(e.mean) for e in shown.predicted]
        _errors(axes, places, shown.measured, scale, "front points")
        axes.legend(frameon=False, fontsize=8)
    low, high = padded(map(scale.place, shown.ends or ()))
    for axis in (axes.xaxis, axes.yaxis):
        axis.axes.set(xlim=(low, high), ylim=(low, high))
        _ticks(axis, scale, low, high)
    if report.rank_correlation is not None:
        rho, n = report.rank_correlation
        axes.set_title(f"Spearman {rho:.2f} over {n} points", fontsize=9, loc="left")
    title = plain_objective_title("loss", report.table.unit)
    axes.set_xlabel(f"predicted {title}")
    axes.set_ylabel(f"measured {title}")
    axes.grid(color="#e7e9ed", linewidth=0.6)
    return figure


def _errors(axes: Any, x: Sequence[float], y: Sequence[Estimate], scale: Scale, text: str) -> None:
    if x:
        reach = np.array([scale.error(*estimate) for estimate in y]).T
        axes.errorbar(
            x,
            [scale.place(e.mean) for e in y],
            reach,
            fmt="o",
            color=MEASURED,
            ecolor="#e6a3ad",
            markersize=5,
            elinewidth=1,
            label=text,
        )


def _ticks(axis: Any, scale: Scale, low: float, high: float) -> None:
    """Set an axis's ticks where it does not find its own."""
    ticks = scale.ticks(low, high)
    if ticks:
        axis.set_ticks([at for at, _ in ticks], labels=[text for _, text in ticks])
