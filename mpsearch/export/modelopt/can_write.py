"""What a ModelOpt checkpoint can say of a layer in a scheme."""

from mpsearch.export.checkpoint.modules import refuse_linear
from mpsearch.export.checkpoint.tensors import DTYPES
from mpsearch.export.modelopt.algorithms import TAKES, find_algorithm
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.schemes import Scheme

_BLOCK = 16


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot be written in ``scheme``; "" where it can.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    weight, activation = scheme.weight, scheme.activation
    takes = (
        f"{layer.name!r} in {scheme.name}: readers of mixed ModelOpt checkpoints leave a layer of any other algorithm "
        f"unquantised; they take {TAKES}"
    )
    if weight.is_cast:
        if weight.format not in DTYPES or activation.format != weight.format:
            return takes
        return "" if scheme.sparsity is None else refuse_linear(graph, layer)
    if not layer.has_weight:
        return (
            f"{layer.name!r} in {scheme.name}: it multiplies two activations, which a ModelOpt checkpoint does not "
            "quantise; allowed: the base"
        )
    algorithm = find_algorithm(scheme)
    if not algorithm:
        return takes
    if algorithm != "FP8" and layer.k % _BLOCK:
        return f"`K % {_BLOCK} == 0` must hold for {scheme.name} in ModelOpt, but {layer.name!r} has K={layer.k}"
    return refuse_linear(graph, layer)
