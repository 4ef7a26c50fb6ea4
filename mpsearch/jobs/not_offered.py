"""What a search does not offer because no export could write it, or its target does not take it: said before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpsearch.errors import MissingExtraError
from mpsearch.graph.model import ModelGraph
from mpsearch.registry import list_names
from mpsearch.schemes import Scheme
from mpsearch.space.allowed import (
    CanWrite,
    export_limits_of,
    find_export_limits,
    own_refusal,
)
from mpsearch.space.space import SearchSpace
from mpsearch.space.targets import target_refusals

Why = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class NotOffered:
    """Layers that are not searched in some schemes, for one reason.

    Attributes:
        reason: Why.
        source: Where it was read; "" of an exporter's own limits.
        schemes: Names of the schemes.
        layers: Names of the layers.
        exporters: Exporters that could write them, where the search has no target.
    """

    reason: str
    source: str
    exporters: tuple[str, ...]
    schemes: tuple[str, ...]
    layers: tuple[str, ...]

    def __str__(self) -> str:
        some = ", ".join(map(repr, self.layers[:4])) + (", …" if len(self.layers) > 4 else "")
        count = f"{len(self.layers)} layers" if len(self.layers) > 1 else "a layer"
        source = f" ({self.source})" if self.source else ""
        return f"{', '.join(self.schemes)} for {count}: {some}: {self.reason}{source}"


def find_not_offered(graph: ModelGraph, space: SearchSpace) -> tuple[NotOffered, ...]:
    """Return what the space's target does not take of its schemes; without a target, what plain ONNX cannot hold.

    What the space itself forbids is left out: its rules, and what schemes need of a layer's sizes. Without a target
    the other exporters are asked too: most often none of them can write it either.

    Args:
        graph: The model.
        space: The schemes, and the target where there is one.
    """
    limits = dict(_limits(["onnx", *list_names("exporters")]))
    if space.runtime is not None:
        limits = {space.runtime.exporter: find_export_limits(space)}
    found: dict[Why, tuple[dict[str, None], dict[str, None]]] = {}
    for scheme in space.schemes:
        if scheme.name == space.base:
            continue
        for index, layer in enumerate(graph.layers):
            if own_refusal(space, graph, index, scheme):
                continue
            why = _why(graph, space, index, scheme, limits)
            if why is not None:
                schemes, layers = found.setdefault(why, ({}, {}))
                schemes[scheme.name] = None
                layers[layer.name] = None
    return tuple(NotOffered(*why, tuple(s), tuple(n)) for why, (s, n) in found.items())


def _why(
    graph: ModelGraph,
    space: SearchSpace,
    index: int,
    scheme: Scheme,
    limits: Mapping[str, CanWrite],
) -> Why | None:
    """Reason without the layer's name, source and who else could write it; None where the layer is offered."""
    layer = graph.layers[index]
    if space.runtime is not None:
        for refusal in target_refusals(space.runtime, graph, index, scheme, space.base):
            if refusal.severity != "note":
                return refusal.reason.removeprefix(f"{layer.name!r}: "), refusal.source, ()
    first, *others = limits
    reason = limits[first](graph, layer, scheme)
    if not reason:
        return None
    able = tuple(name for name in others if not limits[name](graph, layer, scheme))
    reason = reason.removeprefix(f"{layer.name!r} in {scheme.name}: ")
    return reason.removeprefix(f"{layer.name!r}: "), "", able


def _limits(exporters: Sequence[str]) -> Iterator[tuple[str, CanWrite]]:
    for name in exporters:
        try:
            yield name, export_limits_of(name)
        except MissingExtraError:  # nobody here can export with it
            continue
