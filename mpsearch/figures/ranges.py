"""Ranges: a histogram of magnitudes for each layer's input, and where schemes cut it off."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mpsearch.figures.theme import MONO, label, scheme_colours, short_names, template
from mpsearch.simulate.ranges_file import HIGHEST, LOWEST, STEP, Magnitudes
from mpsearch.stats.digits import number
from mpsearch.stats.estimates import Floats

_LEAST_SHARE = 1e-7


def shown_shares(layers: Sequence[Magnitudes]) -> tuple[Floats, float, float]:
    """Return [L, bins] logarithms of shares (NaN: none), and the lowest and highest octave that any has."""
    width = round((HIGHEST - LOWEST) / STEP) + 1
    shares = np.zeros((len(layers), width))
    for i, layer in enumerate(layers):
        shares[i, : len(layer.shares)] = layer.shares
    used = np.flatnonzero(shares.sum(axis=0) > 0)
    first, last = (int(used[0]), int(used[-1])) if used.size else (0, width - 1)
    with np.errstate(divide="ignore"):
        colour = np.log10(shares[:, first : last + 1])
    colour[colour < np.log10(_LEAST_SHARE)] = np.nan
    return colour, LOWEST + STEP * first, LOWEST + STEP * last


def ranges_figure(layers: Sequence[Magnitudes], schemes: Mapping[str, str] = {}) -> go.Figure:
    """Draw a row a layer: how its input's magnitudes are spread, and where schemes clip them.

    Args:
        layers: What calibration saw.
        schemes: Layer to its scheme in a plan: only that one's limit is marked; empty marks all.
    """
    colour, low, high = shown_shares(layers)
    names = short_names([layer.layer for layer in layers], 34)
    octaves = np.arange(low, high + STEP / 2, STEP)
    figure = go.Figure()
    figure.add_heatmap(
        x=octaves.tolist(),
        y=list(range(len(layers))),
        z=[[None if np.isnan(v) else float(v) for v in row] for row in colour],
        coloraxis="coloraxis",
        hovertemplate="2^%{x}: 10^%{z:.1f} of the elements<extra></extra>",
    )
    every = dict.fromkeys(name for layer in layers for name in layer.clips)
    colours = scheme_colours(list(every))
    for name in every:
        at = [
            i
            for i, layer in enumerate(layers)
            if name in layer.clips and schemes.get(layer.layer, name) == name
        ]
        if at:
            figure.add_scatter(
                x=[float(np.log2(layers[i].clips[name])) for i in at],
                y=at,
                mode="markers",
                name=f"{label(name)} clips here",
                marker={
                    "symbol": "line-ns",
                    "size": 13,
                    "line": {"width": 3, "color": colours[name]},
                },
                hovertext=[
                    f"<b>{label(layers[i].layer, 60)}</b><br>{label(name)} holds up to "
                    f"{number(layers[i].clips[name])}; largest value {number(layers[i].amax)}<br>"
                    f"{number(100 * layers[i].clipped[name], 2)} % of the elements are cut off"
                    for i in at
                ],
                hoverinfo="text",
            )
    figure.update_layout(
        template=template(),
        showlegend=True,
        height=150 + 17 * len(layers),
        xaxis={"title": {"text": "log2 of magnitude"}},
        yaxis={
            "range": [len(layers) - 0.5, -0.5],
            "tickvals": list(range(len(layers))),
            "ticktext": names,
            "tickfont": {"family": MONO, "size": 11},
        },
        coloraxis={"colorbar": {"title": {"text": "log10 of the share", "side": "right"}}},
        hovermode="closest",
    )
    return figure


def say_ranges(layers: Sequence[Magnitudes]) -> str:
    """Return where most is cut off, and which inputs spread widest."""
    cut = sorted(
        ((share, layer.layer, name) for layer in layers for name, share in layer.clipped.items()),
        reverse=True,
    )
    worst = [f"{name} in {scheme} {number(100 * s, 2)} %" for s, name, scheme in cut[:3] if s > 0]
    largest = max(layers, key=lambda layer: layer.amax, default=None)
    said = f"Most is cut off of {', '.join(worst)}." if worst else "No scheme cuts anything off."
    if largest is not None:
        said += f" The largest value, {number(largest.amax)}, is read by {largest.layer}."
    return said
