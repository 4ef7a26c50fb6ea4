"""What torchao's configurations can say of a layer in a scheme."""

from mpsearch.export.checkpoint.modules import refuse_linear
from mpsearch.export.checkpoint.tensors import DTYPES
from mpsearch.export.torchao.configs import TAKES, find_config, group_of
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.schemes import Scheme


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot be written in ``scheme``; "" where it can.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    weight, activation = scheme.weight, scheme.activation
    takes = (
        f"{layer.name!r} in {scheme.name}: torchao has no configuration for it; it takes {TAKES}"
    )
    if scheme.sparsity is not None:
        return f"{layer.name!r} in {scheme.name}: torchao rounds the model's own weights, and prunes none"
    if weight.is_cast:
        return "" if weight.format in DTYPES and activation.format == weight.format else takes
    if not layer.has_weight:
        return (
            f"{layer.name!r} in {scheme.name}: it multiplies two activations, which torchao does not quantise; "
            "allowed: the base"
        )
    if find_config(scheme) is None:
        return takes
    if layer.k % group_of(scheme):
        return f"`K % {group_of(scheme)} == 0` must hold for {scheme.name} in torchao, but {layer.name!r} has K={layer.k}"
    return refuse_linear(graph, layer)
