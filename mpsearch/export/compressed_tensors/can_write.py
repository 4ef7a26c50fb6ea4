"""What a compressed-tensors checkpoint can say of a layer in a scheme."""

from mpsearch.export.checkpoint.modules import refuse_linear
from mpsearch.export.checkpoint.tensors import DTYPES
from mpsearch.export.compressed_tensors.layouts import TAKES, find_stored
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
    if weight.is_cast and activation.is_cast:
        if weight.format not in DTYPES or activation.format != weight.format:
            return f"{layer.name!r} in {scheme.name}: {_takes(scheme)}"
        if scheme.sparsity is None:
            return ""
    if not layer.has_weight:
        return (
            f"{layer.name!r} in {scheme.name}: it multiplies two activations, which a compressed-tensors checkpoint "
            "does not quantise; allowed: the base"
        )
    if not weight.is_cast:
        stored = find_stored(scheme)
        if stored is None:
            return f"{layer.name!r} in {scheme.name}: {_takes(scheme)}"
        for arguments in (stored.weights, stored.inputs or {}):
            group = arguments.get("group_size") or arguments.get("block_structure", [1, 1])[1]
            if layer.k % group:
                return (
                    f"`K % {group} == 0` must hold for {scheme.name} in compressed-tensors, but {layer.name!r} has "
                    f"K={layer.k}"
                )
    elif not activation.is_cast:
        return f"{layer.name!r} in {scheme.name}: {_takes(scheme)}"
    return refuse_linear(graph, layer)


def _takes(scheme: Scheme) -> str:
    return f"compressed-tensors has no words for {scheme.weight.format} x {scheme.activation.format} so; it takes {TAKES}"
