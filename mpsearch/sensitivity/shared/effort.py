"""Effort: what a measurement costs in evaluations of the whole model, prefix reuse counted."""

import numpy as np

from mpsearch.graph.model import ModelGraph
from mpsearch.stats.estimates import Floats


def suffix_shares(graph: ModelGraph) -> Floats:
    """Return the [G] shares of the layers' FLOPs that changing one group alone executes again.

    They are those of the group's own layers and of all layers that its outputs reach.
    """
    flops = np.array([layer.flops for layer in graph.layers], np.float64)
    readers: dict[int, list[int]] = {}
    for edge in graph.edges:
        readers.setdefault(edge.source, []).append(edge.target)
    shares = np.ones(len(graph.groups))
    for g, group in enumerate(graph.groups):
        reached, waiting = set(group.layers), list(group.layers)
        while waiting:
            new = [reader for reader in readers.get(waiting.pop(), []) if reader not in reached]
            reached.update(new)
            waiting.extend(new)
        if flops.sum() > 0:
            shares[g] = flops[sorted(reached)].sum() / flops.sum()
    return shares
