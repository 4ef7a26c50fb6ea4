"""What the export for the reference NPU can say of a layer in a scheme."""

from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.registry import find
from mpsearch.schemes import Scheme


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot be written in ``scheme``; "" where it can.

    Its graph is the canonical one, which says every rounding that is not a stored weight's; what the NPU itself runs
    is a matter of its device and its target.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    reason: str = find("export_limits", "onnx")(graph, layer, scheme)
    return reason
