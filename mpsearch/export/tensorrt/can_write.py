"""What strongly typed ONNX for TensorRT 11 can say of a layer in a scheme.

Sources: docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types" and "DynamicQuantize"; the parser's own
checks (onnx/onnx-tensorrt, QuantDequantLinearHelper and TRT_FP4DynamicQuantize).
"""

from mpsearch.export.onnx.ranks import find_rank
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.registry import find
from mpsearch.schemes import Scheme, Spec

_OPSET = 25
_PLAIN = ("fp32", "fp16", "bf16")
_QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BLOCKED = ("Gemm", "MatMul")
_RANKS = (None, 2, 3)  # of an unknown one it is written as a matrix
_INT4_BLOCKS = (64, 128)
_FP4_BLOCK = 16


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot run in ``scheme`` in TensorRT; "" where it can.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    if graph.opset > _OPSET:
        return f"TensorRT 11 must be given opset {_OPSET} or earlier, the model has {graph.opset}"
    reason: str = find("export_limits", "onnx")(graph, layer, scheme)
    if reason:
        return reason
    reason = (
        _weight_reason(scheme.weight)
        or _activation_reason(scheme.activation)
        or _operator_reason(graph, layer, scheme)
    )
    return f"{layer.name!r} in {scheme.name}: {reason}" if reason else ""


def _weight_reason(spec: Spec) -> str:
    if spec.is_cast:
        return _plain_reason(spec)
    if not spec.symmetric:
        return "TensorRT must have zero points of 0, the weights are asymmetric"
    if spec.scale_format == "e8m0":
        return "TensorRT's MX operators are not written here"
    if spec.format in ("e4m3", "int8") and spec.block_shape is None:
        fits = spec.granularity in ("tensor", "channel") and spec.scale_format == "fp32"
        return "" if fits else "TensorRT takes 8-bit weights with fp32 scales per tensor or channel"
    if spec.format == "int4":
        fits = spec.block_shape is not None and spec.block_shape[0] == 1
        width = spec.block_shape[1] if spec.block_shape is not None and fits else 0
        return (
            ""
            if width in _INT4_BLOCKS
            else "TensorRT takes int4 weights in blocks of 64 or 128 only"
        )
    return _fp4_reason(spec)


def _activation_reason(spec: Spec) -> str:
    if spec.is_cast:
        return _plain_reason(spec)
    if not spec.symmetric:
        return "TensorRT must have zero points of 0, the activations are asymmetric"
    if spec.format in ("e4m3", "int8"):
        fits = spec.granularity == "tensor" and spec.range == "static"
        return (
            "" if fits else "TensorRT takes 8-bit activations with one static scale a tensor only"
        )
    if spec.range != "static":
        return "TensorRT must know the second scale of fp4 activations when it builds, it is live"
    return _fp4_reason(spec)


def _plain_reason(spec: Spec) -> str:
    if spec.format in _PLAIN:
        return ""
    return f"TensorRT must have the type {spec.format}, it has {', '.join(_PLAIN)}"


def _fp4_reason(spec: Spec) -> str:
    if spec.format == "e2m1" and spec.tensor_scale and spec.block_shape == (1, _FP4_BLOCK):
        return ""
    return (
        f"TensorRT takes no {spec.format} in this granularity: it has e4m3 and int8 per tensor, weights per channel "
        "too, int4 weights in blocks of 64 or 128, and e2m1 in blocks of 16 with e4m3 scales (nvfp4)"
    )


def _operator_reason(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    specs = scheme.weight, scheme.activation
    if all(spec.is_cast for spec in specs):
        return ""
    if layer.op_type not in _QUANTISED:
        return f"TensorRT quantises {', '.join(_QUANTISED)}, not {layer.op_type}"
    wide = max((spec.block_shape[1] for spec in specs if spec.block_shape is not None), default=0)
    if not wide:
        return ""
    if layer.op_type not in _BLOCKED:
        return "TensorRT takes fp4 and 4-bit integers for Gemm and MatMul only"
    if any(gemm.k % wide for gemm in layer.gemms):
        return f"TensorRT's blocks must divide the reduction: K % {wide} == 0"
    if scheme.activation.block_shape is None:
        return ""
    for gemm in layer.gemms:
        for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
            if find_rank(graph, layer, operand) not in _RANKS:
                return f"TensorRT takes fp4 activations of rank 2 or 3 only, {operand.value!r} has another"
    return ""
