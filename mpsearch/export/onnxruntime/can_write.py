"""What an export for onnxruntime can say of a layer in a scheme."""

from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.registry import find
from mpsearch.schemes import Scheme, Spec

_ELEMENTS = ("fp32", "fp16", "e4m3", "e5m2")


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot run in ``scheme`` in onnxruntime; "" where it can.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    for spec in (scheme.weight, scheme.activation):
        if not _takes(spec):
            return (
                f"{layer.name!r} in {scheme.name}: onnxruntime on a CPU must have kernels for {spec.format}, "
                f"but has only {', '.join(_ELEMENTS)} and integers"
            )
    reason: str = find("export_limits", "onnx")(graph, layer, scheme)
    return reason


def _takes(spec: Spec) -> bool:
    if spec.element.kind != "int" and spec.format not in _ELEMENTS:
        return False
    return spec.scale_format not in ("e8m0", "e4m3")
