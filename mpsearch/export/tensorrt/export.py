"""The export for TensorRT 11: precision stands in the graph, since TensorRT is told it nowhere else.

The canonical model with three differences: operators of 16-bit layers have that type, sparse weights are dense
with zeros in them, and what is rounded to int8 is not clipped first, so that codes reach -128.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto

from mpsearch.cost.executed.onnxruntime import is_static_int8_activation
from mpsearch.export.onnx.builder import Writer
from mpsearch.export.onnx.canonical import Encoding, Weights, build_canonical
from mpsearch.export.onnx.encode_activation import Activation, encode_activation
from mpsearch.export.onnx.encode_weight import encode_weight
from mpsearch.export.onnx.write_model import write_model
from mpsearch.export.tensorrt.build_script import build_script
from mpsearch.export.tensorrt.type_layers import type_layers
from mpsearch.export.writable import check_writable
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.schemes import Scheme, Spec

_TYPED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def export(plan: Plan, graph: ModelGraph, weights: Weights, folder: Path) -> list[Path]:
    """Write ``model.onnx`` and ``build.sh`` into ``folder`` and return the files written.

    Raises:
        PlanError: The plan does not fit, or TensorRT cannot run one of its schemes.
    """
    files = write_model(build_tensorrt(plan, graph, weights), folder)
    script = folder / "build.sh"
    script.write_text(build_script(plan, graph))
    script.chmod(0o755)
    return [*files, script]


def build_tensorrt(plan: Plan, graph: ModelGraph, weights: Weights) -> onnx.ModelProto:
    """Return the strongly typed model of ``plan``.

    Args:
        plan: Made for ``graph``.
        graph: The folded model.
        weights: Gives the simulation's own weights.

    Raises:
        PlanError: The plan does not fit, or TensorRT cannot run one of its schemes.
    """
    schemes = plan_schemes(plan, graph)
    check_writable(graph, schemes, "tensorrt")
    model = build_canonical(plan, graph, weights, Encoding(_encode_weight, _encode_activation))
    base = plan.schemes[plan.base].activation.format
    formats = {
        layer.name: fmt
        for layer, scheme in zip(graph.layers, schemes, strict=True)
        if (fmt := operator_format(scheme, base)) != "fp32" and _is_plain(graph, layer)
    }
    type_layers(model, formats)
    return model


def _is_plain(graph: ModelGraph, layer: Layer) -> bool:
    """Whether the layer is a standard product of fp32 tensors."""
    value = graph.values.get(layer.output)
    return layer.op_type in _TYPED and (value is None or value.dtype == "float32")


def operator_format(scheme: Scheme, base: str) -> str:
    """Return the type that a layer's operator runs in: a 16-bit one where the scheme says so for activations and outputs.

    Quantised operands are dequantised to fp32, which TensorRT's kernels give: nothing is rounded that the simulation does
    not round. A 16-bit layer in another base stays in fp32 between casts, since its output would be rounded twice; in
    an fp32 base fp16 is 2**-12 off, and is taken.
    """
    activation = scheme.activation
    if not activation.is_cast or activation.format not in ("fp16", "bf16"):
        return "fp32"
    fits = activation.format == base or (activation.format, base) == ("fp16", "fp32")
    return activation.format if fits else "fp32"


def _encode_weight(writer: Writer, weight: QuantizedTensor, _: bool) -> str:
    """A dense weight whose scales are above zero, as the parser wants them."""
    scales = weight.scales
    if scales is not None and not weight.spec.tensor_scale:
        scales = torch.where(scales == 0, 1.0, scales)  # of codes that are all zero
    unit = weight.tensor_scale or 1.0
    dense = replace(weight, sparsity=None, mask=None, scales=scales, tensor_scale=unit)
    return encode_weight(writer, dense)


def _encode_activation(
    writer: Writer, read: Activation, spec: Spec, found: Range | None, _: bool
) -> str:
    if found is None or not is_static_int8_activation(spec):
        return encode_activation(writer, read, spec, found)
    scale = writer.constant(np.float32(found.scale or 1.0), "scale")
    codes = writer.add("QuantizeLinear", read.value, scale, output_dtype=int(TensorProto.INT8))
    return writer.add("DequantizeLinear", codes, scale)
