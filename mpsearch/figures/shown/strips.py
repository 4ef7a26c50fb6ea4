"""A plan as strips: the same layers at widths that stand for different things."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs, Table
from mpsearch.stats.estimates import Floats


@dataclass(frozen=True, slots=True)
class Strip:
    """One strip: shares in percent and where they start, a layer each."""

    title: str
    shares: Floats
    starts: Floats


@dataclass(frozen=True, slots=True)
class ShownPlan:
    """What the figure of a plan shows.

    Attributes:
        layers: [L] indices of the decided layers, in schedule order.
        schemes: [L] index of each one's scheme.
        strips: The strips, each over these layers.
    """

    layers: tuple[int, ...]
    schemes: tuple[int, ...]
    strips: tuple[Strip, ...]


def show_plan(
    graph: ModelGraph,
    assignment: Sequence[int],
    *,
    costs: Costs | None = None,
    table: Table | None = None,
) -> ShownPlan:
    """Return the strips of a plan: layers, parameters, FLOPs, and its own latency and predicted loss.

    What a group pays is split over its layers by FLOPs.
    """
    group_of = {i: g for g, group in enumerate(graph.groups) for i in group.layers}
    decided = [i for i in range(len(graph.layers)) if i in group_of]
    layers = [graph.layers[i] for i in decided]
    flops = np.array([max(layer.flops, 1) for layer in layers], np.float64)
    of = np.array([group_of[i] for i in decided], np.int64)
    share = flops / np.bincount(of, flops, minlength=len(graph.groups))[of]
    sizes = {
        "layers": np.ones(len(layers)),
        "parameters": np.array([layer.parameters for layer in layers], np.float64),
        "FLOPs": flops,
    }
    chosen = np.asarray(assignment)[of] if len(of) else of
    if costs is not None and "latency_us" in costs.objectives:
        sizes["latency"] = costs.objectives["latency_us"][of, chosen] * share
    if table is not None:
        sizes["predicted loss"] = np.maximum(table.values[of, chosen], 0) * share
    strips = []
    for title, size in sizes.items():
        if size.sum() > 0:
            shares = 100 * size / size.sum()
            starts = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
            strips.append(Strip(title, shares, starts))
    return ShownPlan(tuple(decided), tuple(chosen.tolist()), tuple(strips))
