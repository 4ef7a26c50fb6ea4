"""What the canonical ONNX can say of a layer in a scheme: search asks before it measures, export before it writes."""

from mpsearch.errors import PlanError
from mpsearch.export.onnx.builder import find_type
from mpsearch.export.onnx.encode_activation import check_activation_spec
from mpsearch.export.onnx.ranks import RANK_OF_WEIGHT, find_rank
from mpsearch.formats import find_format
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.schemes import Scheme, Spec


def can_write(graph: ModelGraph, layer: Layer, scheme: Scheme) -> str:
    """Return why ``layer`` cannot be written in ``scheme``; "" where it can.

    Args:
        graph: The folded model.
        layer: One of its layers.
        scheme: What the layer would run in.
    """
    try:
        check_weight_spec(scheme.weight)
        check_activation_spec(scheme.activation)
    except PlanError as error:
        return f"{layer.name!r} in {scheme.name}: {error}"
    inside = any(gemm.left.input_index < 0 for gemm in layer.gemms)
    if inside and not scheme.activation.is_cast:
        return (
            f"{layer.name!r}: {layer.op_type} multiplies values that never leave the operator, which "
            f"ONNX cannot round to {scheme.activation.format}; allowed: schemes whose activations are floats "
            "without scales"
        )
    for gemm in layer.gemms:
        for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
            if operand.input_index < 0 or not _needs_shape(scheme.activation):
                continue
            if layer.op_type in RANK_OF_WEIGHT:
                continue
            if find_rank(graph, layer, operand) is None and operand.reduction_axis != -1:
                return (
                    f"{layer.name!r}: the rank of {operand.value!r} must be known for {scheme.name}, whose "
                    "scales run along an axis that is not the last; give sizes with --shape"
                )
    return ""


def check_weight_spec(spec: Spec) -> None:
    """Raise a :class:`PlanError` if ONNX cannot store a weight in ``spec``."""
    find_type(spec.element)
    if spec.scale_format is not None:
        try:
            find_type(find_format(spec.scale_format))
        except PlanError as error:
            raise PlanError(f"scales: {error}") from None


def _needs_shape(spec: Spec) -> bool:
    """Whether scales run along an axis of the activation."""
    return spec.granularity != "tensor"
