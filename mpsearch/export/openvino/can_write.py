"""What an export for OpenVINO can say of a layer in a scheme."""

from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.registry import find
from mpsearch.schemes import Scheme


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot run in ``scheme`` in OpenVINO; "" where it can: all that ONNX can say.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    reason: str = find("export_limits", "onnx")(graph, layer, scheme)
    return reason
