"""What AIMET's encodings 2.0.0 can say of a layer in a scheme."""

from mpsearch.graph.model import Gemm, Layer, ModelGraph
from mpsearch.schemes import Scheme, Spec

TAKES = "int4 and int8 per tensor, channel or, of matrices, in groups; int8 activations of a calibrated range; plain fp32, fp16"
_BITS = (4, 8)


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot be written in ``scheme``; "" where it can.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    weight, activation = scheme.weight, scheme.activation
    if not (_takes_weight(weight) and _takes_activation(activation)):
        return f"{layer.name!r} in {scheme.name}: AIMET's encodings have no words for it; they take {TAKES}"
    if weight.is_cast and activation.is_cast and scheme.sparsity is None:
        return ""
    if layer.name not in {node.name for node in graph.nodes}:
        return (
            f"{layer.name!r} lies in a branch or loop, whose tensors AIMET's encodings do not name"
        )
    for gemm in layer.gemms:
        if gemm.left.input_index < 0:
            return (
                f"{layer.name!r}: {layer.op_type} multiplies values that never leave the operator"
            )
        if gemm.has_weight and (reason := _refuse_weight(graph, layer, gemm, scheme)):
            return reason
    return ""


def _refuse_weight(graph: ModelGraph, layer: Layer, gemm: Gemm, scheme: Scheme) -> str:
    spec = scheme.weight
    is_split = len(gemm.right.channel_axes) != 1 or gemm.right.groups != 1
    if spec.granularity == "channel" and is_split:
        return f"{layer.name!r} in {scheme.name}: its output channels must be one axis of the weight, but are more"
    if spec.block_shape is None:
        return ""
    constant = graph.constants.get(gemm.right.value)
    if constant is None or constant.ndim != 2:
        return f"{layer.name!r} in {scheme.name}: groups are for matrices, but its weight is none"
    if gemm.k % spec.block_shape[1]:
        return (
            f"`K % {spec.block_shape[1]} == 0` must hold for {scheme.name} in AIMET's encodings, but {layer.name!r} has "
            f"K={gemm.k}"
        )
    return ""


def _takes_weight(spec: Spec) -> bool:
    if spec.is_cast:
        return spec.format in ("fp32", "fp16")
    if spec.element.kind != "int" or spec.element.bits not in _BITS or spec.scale_format == "e8m0":
        return False
    return spec.block_shape is None or (spec.granularity == "group" and spec.block_shape[0] == 1)


def _takes_activation(spec: Spec) -> bool:
    if spec.is_cast:
        return spec.format in ("fp32", "fp16")
    is_whole = spec.granularity == "tensor" and spec.range == "static"
    return is_whole and spec.element.kind == "int" and spec.element.bits in _BITS
