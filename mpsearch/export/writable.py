"""Whether an exporter can write all layers of a plan, by its own limits."""

from collections.abc import Sequence

from mpsearch.errors import PlanError
from mpsearch.graph.model import ModelGraph
from mpsearch.registry import find
from mpsearch.schemes import Scheme


def check_writable(graph: ModelGraph, schemes: Sequence[Scheme], exporter: str) -> None:
    """Refuse what ``exporter`` cannot write.

    Args:
        graph: The folded model.
        schemes: One a layer.
        exporter: Name of its limits in the registry.

    Raises:
        PlanError: It cannot write a layer in its scheme.
    """
    can_write = find("export_limits", exporter)
    for layer, scheme in zip(graph.layers, schemes, strict=True):
        if reason := can_write(graph, layer, scheme):
            raise PlanError(reason)
