"""An assignment of schemes to groups, checked and spread over the layers."""

from collections.abc import Mapping

import numpy as np

from mpsearch.errors import SpaceError
from mpsearch.graph.model import ModelGraph
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Bools, Ints


def layer_schemes(
    graph: ModelGraph,
    space: SearchSpace,
    allowed: Bools,
    reasons: Mapping[tuple[str, str], str],
    assignment: Ints,
) -> tuple[int, ...]:
    """Return the scheme index of each layer.

    Args:
        graph: The model.
        space: The schemes.
        allowed: [G, S] what each group may take.
        reasons: (group, scheme) names to why not, for messages.
        assignment: [G] scheme index of each group.

    Raises:
        SpaceError: The assignment has another length, or takes what is not allowed.
    """
    chosen = np.asarray(assignment)
    if chosen.shape != (len(graph.groups),) or chosen.dtype.kind not in "iu":
        raise SpaceError(
            f"an assignment must hold one scheme index for each of {len(graph.groups)} groups, "
            f"got {chosen.dtype} of shape {chosen.shape}"
        )
    if chosen.min(initial=0) < 0 or chosen.max(initial=0) >= len(space.schemes):
        raise SpaceError(
            f"scheme indices must be within [0, {len(space.schemes)}), got {chosen.tolist()}"
        )
    bad = np.flatnonzero(~allowed[np.arange(len(chosen)), chosen])
    if len(bad):
        group, scheme = graph.groups[bad[0]].name, space.names[chosen[bad[0]]]
        why = reasons.get((group, scheme), "the space forbids it")
        raise SpaceError(f"group {group!r} may not take {scheme}: {why}")
    schemes = [0] * len(graph.layers)
    for g, group_value in enumerate(graph.groups):
        for layer in group_value.layers:
            schemes[layer] = int(chosen[g])
    return tuple(schemes)
