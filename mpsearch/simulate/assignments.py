"""An assignment of schemes to groups, checked and spread over the layers."""

from math import ceil

import numpy as np

from mpsearch.errors import SpaceError
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.stats.estimates import Ints


def layer_schemes(calibrated: Calibrated, assignment: Ints) -> tuple[int, ...]:
    """Return the scheme index of each layer.

    Args:
        calibrated: The model, and what each group may take.
        assignment: [G] scheme index of each group.

    Raises:
        SpaceError: The assignment has another length, takes what is not allowed, or is not the one that the model
            was changed for.
    """
    graph, space = calibrated.graph, calibrated.space
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
    bad = np.flatnonzero(~calibrated.allowed[np.arange(len(chosen)), chosen])
    if len(bad):
        group, scheme = graph.groups[bad[0]].name, space.names[chosen[bad[0]]]
        why = calibrated.reasons.get((group, scheme), "the space forbids it")
        raise SpaceError(f"group {group!r} may not take {scheme}: {why}")
    schemes = [0] * len(graph.layers)
    for g, group_value in enumerate(graph.groups):
        for layer in group_value.layers:
            schemes[layer] = int(chosen[g])
    for (layer, _), weight in calibrated.changes.weights.items():
        scheme = space.schemes[schemes[layer]]
        if not weight.is_stored_as(scheme):
            raise SpaceError(
                f"{graph.layers[layer].name!r}: a changed model must be run in the plan that it was changed for, but "
                f"its weight is not stored as {scheme.name} stores weights"
            )
    return tuple(schemes)


def spread_batches(n_batches: int, fraction: float) -> list[int]:
    """Return the numbers of a fraction of the batches, spread evenly and always the same ones.

    Raises:
        SpaceError: The fraction is not within (0, 1].
    """
    if not 0 < fraction <= 1:
        raise SpaceError(f"`0 < fraction <= 1` must hold, got {fraction}")
    count = max(1, ceil(fraction * n_batches - 1e-9))
    return [int(b) for b in np.unique(np.linspace(0, n_batches - 1, count).round())]
