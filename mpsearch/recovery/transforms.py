"""Equivalent transforms as methods of recovery: constants changed, and ranges found again with them."""

from collections.abc import Callable
from dataclasses import replace

from mpsearch.program.compile import compile_graph
from mpsearch.recovery import equivalent
from mpsearch.recovery.task import Method, Recovered, RecoveryTask
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.changes import change_constants
from mpsearch.simulate.observation import make_ranges, observe_model


def smooth(task: RecoveryTask) -> Recovered:
    """What layers read is divided by factors a channel, which their weights take (SmoothQuant)."""
    return _transform(task, equivalent.smooth)


def awq(task: RecoveryTask) -> Recovered:
    """Weights of strong channels are made larger and so rounded less, what they read smaller (AWQ)."""
    return _transform(task, equivalent.awq)


def rotate(task: RecoveryTask) -> Recovered:
    """Blocks of channels are rotated by Hadamard matrices where only linear operators stand before (QuaRot)."""
    return _transform(task, equivalent.rotate)


SMOOTH = Method(smooth, kind="transform")
AWQ = Method(awq, kind="transform")
ROTATE = Method(rotate, kind="transform")


def _transform(task: RecoveryTask, choose: Callable[..., equivalent.Constants]) -> Recovered:
    """What ``choose`` makes of the constants, and the ranges that values then have."""
    made, calibrated = task.made, task.made.calibrated
    schemes = [calibrated.space.schemes[s] for s in layer_schemes(calibrated, task.assignment)]
    before = calibrated.changes
    feeds = [made.feed_run(run) for run in range(made.n_runs)]
    constants = choose(calibrated, schemes, feeds)
    if not constants:
        return Recovered(before)
    gemms = {
        (layer, index): gemm
        for layer, owner in enumerate(calibrated.graph.layers)
        for index, gemm in enumerate(owner.gemms)
    }
    stored = {at: w for at, w in before.weights.items() if gemms[at].right.value not in constants}
    changes = replace(before, constants={**before.constants, **constants}, weights=stored)
    original = calibrated.unchanged
    graph = change_constants(original.graph, changes)
    heads = [head.value for head in made.heads]
    seen = observe_model(graph, compile_graph(graph, original.program.device), feeds, heads)
    found = make_ranges(graph, seen, schemes)
    return Recovered(
        replace(changes, ranges={key: known for key, known in found.items() if key[0]})
    )
