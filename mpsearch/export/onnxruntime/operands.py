"""Operands for onnxruntime: static int8 in unsigned codes, other weights so that they are folded when it loads."""

from typing import Any

import numpy as np
from onnx import TensorProto

from mpsearch.export.onnx.builder import Writer, find_type
from mpsearch.export.onnx.encode_weight import encode_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.schemes import Spec

_MIDDLE = 128
"""The unsigned code of 0 where there are negative numbers."""


def encode_unsigned_activation(writer: Writer, value: str, found: Range, is_positive: bool) -> str:
    """Append what rounds ``value`` to unsigned codes of the calibrated step; return the rounded value's name.

    Args:
        writer: Receives nodes and tensors.
        value: An fp32 activation.
        found: Its calibrated range.
        is_positive: It holds no negative number: code 0 is then 0, and a Relu before is part of the rounding.
    """
    scale = writer.constant(np.float32(found.scale or 1.0), "scale")
    zero = writer.constant(np.uint8(0 if is_positive else _MIDDLE), "zero_point")
    codes = writer.add("QuantizeLinear", value, scale, zero)
    return writer.add("DequantizeLinear", codes, scale, zero)


def encode_emulated_activation(writer: Writer, value: str, spec: Spec, found: Range) -> str:
    """Append what rounds ``value`` to a static spec with one scale, without a QuantizeLinear; return the result's name.

    Beside QuantizeLinear and DequantizeLinear onnxruntime removes Relus and rounds weights to int8 on its own.

    Args:
        writer: Receives nodes and tensors.
        value: An fp32 activation.
        spec: Its spec.
        found: Its calibrated range.
    """
    element, step = spec.element, writer.constant(np.float32(found.scale or 1.0), "scale")
    low, high = -element.max_value, element.max_value
    if not spec.symmetric:
        half = 2 ** (element.bits - 1)
        low, high = float(-half - found.zero_point), float(half - 1 - found.zero_point)
    units = writer.add("Div", value, step)
    if element.kind == "int":
        units = writer.add("Round", units)
    units = writer.add("Clip", units, writer.number(low), writer.number(high))
    if element.kind != "int":
        narrow = writer.add("Cast", units, to=find_type(element)[0])
        units = writer.add("Cast", narrow, to=int(TensorProto.FLOAT))
    return writer.add("Mul", units, step)


def encode_unsigned_weight(writer: Writer, weight: QuantizedTensor) -> str:
    """Append an int8 weight, one scale or one an output channel, as unsigned codes; return the fp32 value's name."""
    assert weight.scales is not None  # of a static int8 scheme
    codes = weight.layout.from_rows(weight.codes).cpu().numpy()
    is_one = weight.spec.granularity == "tensor"
    scales = weight.scales.reshape(() if is_one else (-1,)).cpu().numpy()
    stored = writer.constant((codes + _MIDDLE).astype(np.uint8), "codes")
    inputs = [
        stored,
        writer.constant(scales, "scales"),
        writer.constant(np.full(scales.shape, _MIDDLE, np.uint8), "zero_points"),
    ]
    attributes: dict[str, Any] = {} if is_one else {"axis": weight.layout.row_axis}
    return writer.add("DequantizeLinear", *inputs, **attributes)


def encode_folded_weight(writer: Writer, weight: QuantizedTensor) -> str:
    """Append a weight that is computed with in fp32; return the fp32 value's name.

    Elements with one scale, or one an output channel, are cast and multiplied, which onnxruntime does once, when it
    loads the model; a DequantizeLinear it would run each time. Others are stored in fp32.
    """
    if weight.scales is None and weight.sparsity is None:
        return encode_weight(writer, weight)
    plain = weight.spec.granularity in ("tensor", "channel") and weight.zeros is None
    axis = weight.layout.row_axis
    if not plain or weight.scales is None or axis is None or weight.tensor_scale != 1.0:
        return writer.constant(weight.dequantize().cpu().numpy(), "weight")
    codes = weight.layout.from_rows(weight.codes).cpu().numpy()
    shape = [1] * codes.ndim
    if weight.scales.numel() > 1:
        shape[axis] = weight.scales.numel()
    stored = writer.constant(codes.astype(find_type(weight.spec.element)[1]), "codes")
    scales = writer.constant(weight.scales.reshape(shape).cpu().numpy(), "scales")
    return writer.add("Mul", writer.add("Cast", stored, to=int(TensorProto.FLOAT)), scales)
