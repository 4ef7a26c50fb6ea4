"""Colours and words that all figures share: one colour a scheme, one template a colour scheme.

The hues are Okabe and Ito's (distinct for colour-blind eyes); sparse schemes are also hatched, so
that no figure relies on hue alone.
"""

import html
import re
from collections.abc import Sequence
from typing import Any

from mpsearch.schemes import SCHEMES
from mpsearch.shown import shorten

GREY = "#7d8590"  # reads on white and on black
MEASURED = "#d1495b"
PREDICTED = "#7d8590"
COMPARED = "#0072b2"
CHOSEN = "#f2b705"

_FIXED = {
    "fp32": "#4d535b",
    "tf32": "#686f79",
    "bf16": "#8b93a1",
    "fp16": "#a3acb8",
    "fp8": "#0072b2",
    "fp8_dynamic": "#0072b2",
    "fp8_tensor": "#0072b2",
    "fp8_block": "#0072b2",
    "mxfp8": "#0072b2",
    "int8": "#56b4e9",
    "int8_dynamic": "#56b4e9",
    "w8a16": "#56b4e9",
    "nvfp4": "#e69f00",
    "nvfp4a16": "#f0e442",
    "mxfp4": "#d55e00",
    "mxfp4a16": "#f3b58a",
    "mxfp6": "#009e73",
    "w4a16": "#009e73",
    "fp4": "#8f5a2b",
    "fp8_2of4": "#5aa9d6",
    "nvfp4_2of4": "#cc79a7",
}
SPARE = ("#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#8f5a2b", "#b8a1e3", "#6b8e23")

SANS = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def scheme_colours(schemes: Sequence[str]) -> dict[str, str]:
    """Return a colour for each scheme; a well-known scheme has the same one in every run."""
    colours: dict[str, str] = {}
    for name in schemes:
        wanted = _FIXED.get(name)
        if wanted is None or wanted in colours.values():
            free = [c for c in SPARE if c not in colours.values()]
            free = [c for c in free if c not in {_FIXED.get(s) for s in schemes}] or free
            wanted = free[0] if free else GREY
        colours[name] = wanted
    return colours


def is_hatched(name: str) -> bool:
    """Return whether a scheme is drawn hatched: where it is sparse."""
    scheme = SCHEMES.get(name)
    sparse = scheme is not None and scheme.sparsity is not None
    return sparse or name.endswith(("_2of4", "_4of8"))


def scheme_fill(name: str, colour: str) -> dict[str, Any]:
    """Return plotly's marker of a scheme's bars."""
    if not is_hatched(name):
        return {"color": colour}
    hatch = {"shape": "/", "bgcolor": colour, "fgcolor": "#ffffff", "fgopacity": 0.75}
    return {"color": colour, "pattern": hatch | {"solidity": 0.2, "size": 6}}


def label(text: str, limit: int = 0) -> str:
    """Return ``text`` as plotly must be given it: its pseudo-HTML is escaped, so it shows verbatim.

    Args:
        text: Any string, hostile ones included.
        limit: Longest text that stays whole, see :func:`shorten`; 0 keeps all.
    """
    return html.escape(shorten(text, limit), quote=False).replace("$", "&#36;")


def short_names(names: Sequence[str], limit: int) -> list[str]:
    """Return :func:`plain_short_names` as plotly must be given them."""
    return [label(name) for name in plain_short_names(names, limit)]


def plain_short_names(names: Sequence[str], limit: int) -> list[str]:
    """Return ``names`` without the path parts that all share, shortened to ``limit``."""
    parts = [re.split(r"(?<=[/.])", name) for name in names]
    fewest = min(map(len, parts), default=0) - 1 if len(parts) > 1 else 0
    head = tail = 0
    while head < fewest and len({p[head] for p in parts}) == 1:
        head += 1
    while tail < fewest - head and len({p[-1 - tail] for p in parts}) == 1:
        tail += 1
    kept = ["".join(p[head : len(p) - tail]).rstrip("/.") for p in parts]
    return [shorten(name, limit) for name in kept]


def objective_title(name: str, unit: str = "") -> str:
    """Return :func:`plain_objective_title` as plotly must be given it."""
    return label(plain_objective_title(name, unit))


def plain_objective_title(name: str, unit: str = "") -> str:
    """Return the axis title of an objective, such as ``latency (µs)``."""
    stem, _, detail = name.partition(":")
    words = {
        "latency_us": "latency (µs)",
        "weight_bytes": "weights (bytes)",
        "energy_uj": "energy (µJ)",
        "effective_bits": "effective bits",
        "memory_bytes": "memory (bytes)",
        "loss": f"loss ({unit})" if unit else "loss",
    }.get(stem, stem)
    return f"{words}, {detail}" if detail else words


def template(*, dark: bool = False) -> dict[str, Any]:
    """Return the plotly template of the light or the dark colour scheme."""
    ink, grid, line = (
        ("#d5dae1", "#2c323b", "#59616d") if dark else ("#2b3038", "#e7e9ed", "#aab1bb")
    )
    axis = {
        "gridcolor": grid,
        "linecolor": line,
        "zerolinecolor": line,
        "tickcolor": line,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 10},
        "exponentformat": "power",
    }
    low, middle, high = (
        ("#1d2733", "#8c3b4a", "#ffb38a") if dark else ("#f6f3ee", "#e58b6d", "#7a1530")
    )
    layout = {
        "font": {"family": SANS, "size": 13, "color": ink},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "coloraxis": {"colorscale": [[0, low], [0.55, middle], [1, high]]},
        "xaxis": axis,
        "yaxis": axis,
        "hoverlabel": {
            "font": {"family": MONO, "size": 12, "color": ink},
            "bgcolor": "#171b21" if dark else "#ffffff",
            "bordercolor": line,
            "align": "left",
        },
        "legend": {
            "orientation": "h",
            "yanchor": "bottom",
            "y": 1.02,
            "xanchor": "left",
            "x": 0,
            "bgcolor": "rgba(0,0,0,0)",
        },
        "margin": {"l": 64, "r": 24, "t": 48, "b": 56},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": line, "activecolor": ink},
    }
    return {"layout": layout}
