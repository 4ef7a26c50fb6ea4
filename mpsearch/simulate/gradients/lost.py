"""Which layers lose their gradient to nodes that torch does not compute."""

import warnings
from collections.abc import Iterable

from mpsearch.graph.model import ModelGraph
from mpsearch.program.program import Program, Step
from mpsearch.program.schedule import make_schedule

_SHOWN = 5


class GradientWarning(UserWarning):
    """Some layers get no gradient, or only part of it."""


def find_lost(program: Program, wanted: Iterable[int]) -> tuple[tuple[int, ...], tuple[Step, ...]]:
    """Return the layers that reach the slots ``wanted`` through a node without a gradient, and these nodes.

    Such a layer gets what other paths bring, or nothing.
    """
    beyond: set[int] = set()
    layers: list[int] = []
    blocking: list[Step] = []
    for step in reversed(make_schedule(program, wanted).steps):
        inner = [node for body in step.bodies for node in body.fallbacks()]
        lost = not beyond.isdisjoint(step.outputs)
        if lost or inner:
            layers += step.layers()
        if not step.native or inner:
            blocking += inner or [step]
        elif not lost:
            continue
        beyond.update(slot for slot in step.inputs if slot >= 0)
    return tuple(sorted(set(layers))), tuple(reversed(blocking))


def warn_lost(graph: ModelGraph, program: Program, wanted: Iterable[int]) -> None:
    """Warn where layers lose their gradient: the message names them and the nodes that stop it."""
    layers, blocking = find_lost(program, wanted)
    if not layers:
        return
    names = [graph.layers[layer].name for layer in layers]
    nodes = [f"{step.node.name!r} ({step.node.op_type})" for step in blocking]
    warnings.warn(
        f"no gradient passes node {_some(nodes)}, which torch does not compute, so that {len(names)} "
        f"of {len(graph.layers)} layers get only what other paths bring: {_some(names)}",
        GradientWarning,
        stacklevel=3,
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
