"""What binds each layer of a plan: its arithmetic intensity against what the device computes and moves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from mpsearch.cost.device import Device
from mpsearch.figures.theme import GREY, label, scheme_colours, template
from mpsearch.formats import find_format
from mpsearch.graph.model import Group, ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.schemes import SCHEMES, Scheme
from mpsearch.stats.digits import number

_FAR = 0.25  # of the roof: below it neither arithmetic nor memory explains the time


@dataclass(frozen=True, slots=True)
class Placed:
    """One group on the roofline.

    Attributes:
        group: Its index.
        scheme: Index of its scheme.
        intensity: Operations a byte that moves between memory and device.
        tflops: Operations a second at the modelled latency, 1e12.
        roof: What the device could reach at this intensity.
        bound: ``memory``, ``compute``, or ``overhead`` where the time is far above both.
    """

    group: int
    scheme: int
    intensity: float
    tflops: float
    roof: float
    bound: str


def place_groups(
    graph: ModelGraph, costs: Costs, device: Device, assignment: Sequence[int]
) -> list[Placed]:
    """Return where each group stands; groups whose scheme or size is unknown are left out.

    A group moves its stored weights once, and its layers' inputs and outputs, at the widths of the scheme
    and the base, where they do not fit on the chip. A sparse scheme has the dense roof times its gain.
    """
    latency, weights = costs.objectives["latency_us"], costs.objectives.get("weight_bytes")
    scale = costs.batch / max(graph.batch, 1)
    found = []
    for g, group in enumerate(graph.groups):
        s = assignment[g]
        scheme = SCHEMES.get(costs.schemes[s])
        peak = device.peak_tflops.get(scheme.rate) if scheme is not None else None
        if scheme is not None and peak is not None and scheme.sparsity is not None:
            peak *= device.sparse_gain
        flops = scale * sum(graph.layers[i].flops for i in group.layers)
        if scheme is None or peak is None or not flops or latency[g, s] <= 0:
            continue
        moved = _moved_bytes(graph, group, scheme, scale, device)
        moved += float(weights[g, s]) if weights is not None else 0.0
        if not moved:
            continue
        intensity, tflops = flops / moved, flops / float(latency[g, s]) / 1e6
        memory = device.bandwidth_gb_s * intensity / 1e3
        bound = "memory" if memory < peak else "compute"
        roof = min(memory, peak)
        found.append(
            Placed(g, s, intensity, tflops, roof, bound if tflops > _FAR * roof else "overhead")
        )
    return found


def roofline_figure(
    graph: ModelGraph, costs: Costs, device: Device, assignment: Sequence[int]
) -> go.Figure:
    """Draw a plan's groups under the roofs of the rates that it uses."""
    placed = place_groups(graph, costs, device, assignment)
    colours = scheme_colours(costs.schemes)
    figure = go.Figure()
    places = [p.intensity for p in placed] or [1.0]
    ends = np.geomspace(min(places) / 2, max(places) * 2, 60)
    rates = dict.fromkeys(SCHEMES[costs.schemes[p.scheme]].rate for p in placed)
    for rate in rates:
        roof = np.minimum(device.bandwidth_gb_s * ends / 1e3, device.peak_tflops[rate])
        figure.add_scatter(
            x=ends.tolist(),
            y=roof.tolist(),
            mode="lines",
            name=f"roof of {label(rate)}",
            line={"color": GREY, "width": 1.2, "dash": "dash"},
            hoverinfo="name",
        )
    symbols = {"memory": "circle", "compute": "square", "overhead": "triangle-up-open"}
    for s, name in enumerate(costs.schemes):
        for bound, symbol in symbols.items():
            some = [p for p in placed if p.scheme == s and p.bound == bound]
            if some:
                figure.add_scatter(
                    x=[p.intensity for p in some],
                    y=[p.tflops for p in some],
                    mode="markers",
                    name=f"{label(name)}, bound by {bound}",
                    marker={"size": 10, "color": colours[name], "symbol": symbol},
                    hovertext=[
                        f"<b>{label(costs.groups[p.group], 60)}</b><br>{label(name)}, bound by {bound}"
                        f"<br>{number(p.intensity)} operations a byte"
                        f"<br>{number(p.tflops)} of {number(p.roof)} TFLOPS"
                        for p in some
                    ],
                    hoverinfo="text",
                )
    figure.update_layout(
        template=template(),
        height=460,
        showlegend=True,
        xaxis={"title": {"text": "operations a byte"}, "type": "log"},
        yaxis={"title": {"text": "modelled TFLOPS"}, "type": "log"},
        hovermode="closest",
    )
    return figure


def _moved_bytes(
    graph: ModelGraph, group: Group, scheme: Scheme, scale: float, device: Device
) -> float:
    """Bytes of a group's inputs in its scheme and of its outputs in 16 bits, where they leave the chip."""
    bits = find_format(scheme.activation.format).bits
    layers = [graph.layers[i] for i in group.layers]
    each = [scale * (la.input_elements * bits / 8 + la.output_elements * 2) for la in layers]
    return sum(size for size in each if size > device.on_chip_mb * 2**20)
