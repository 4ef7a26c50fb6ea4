"""What a scheme makes of a layer's weight: pruned, then rounded, as floats or as what is stored."""

from torch import Tensor

from mpsearch.graph.model import Layer
from mpsearch.numerics.quantize import quantize_weight, simulate_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.schemes import Scheme


def quantize_layer_weight(
    layer: Layer, gemm: int, scheme: Scheme, weight: Tensor
) -> QuantizedTensor:
    """Return the weight of a layer's matrix product as ``scheme`` stores it.

    Args:
        layer: The layer.
        gemm: Index of its matrix product, which must have a weight.
        scheme: What the layer runs in.
        weight: The weight as the node reads it, or what recovery made of it.

    Raises:
        NumericsError: The weight holds NaN or Inf.
        SchemeError: The scheme's sparsity does not divide the channels.
    """
    right = layer.gemms[gemm].right
    return quantize_weight(
        weight,
        scheme.weight,
        reduction_axis=right.reduction_axis,
        channel_axes=right.channel_axes,
        groups=right.groups,
        sparsity=scheme.sparsity,
        name=f"{layer.name}: weight",
    )


def simulate_layer_weight(layer: Layer, gemm: int, scheme: Scheme, weight: Tensor) -> Tensor:
    """Return ``quantize_layer_weight(…).dequantize()``, every bit of it, in fewer passes; differentiable in ``weight``."""
    right = layer.gemms[gemm].right
    return simulate_weight(
        weight,
        scheme.weight,
        reduction_axis=right.reduction_axis,
        channel_axes=right.channel_axes,
        groups=right.groups,
        sparsity=scheme.sparsity,
        name=f"{layer.name}: weight",
    )
