"""Operands for onnxruntime: static int8 in unsigned codes, other weights so that they are folded when it loads."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor
from torch.nn.functional import pad

from mpsearch.export.onnx.builder import Writer, find_type
from mpsearch.export.onnx.encode_weight import (
    encode_weight,
    restore_shape,
    store_elements,
    store_scales,
)
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.schemes import Spec

PACKED, PACKED_DOMAIN = "PackedWeight", "mpsearch"
"""Operator that stands for a weight until it is part of a MatMulNBits."""

_FLOAT = int(TensorProto.FLOAT)
MIDDLE = 128
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
    zero = writer.constant(np.uint8(0 if is_positive else MIDDLE), "zero_point")
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
        units = writer.add("Cast", narrow, to=_FLOAT)
    return writer.add("Mul", units, step)


def encode_unsigned_weight(writer: Writer, weight: QuantizedTensor) -> str:
    """Append an int8 weight, one scale or one an output channel, as unsigned codes; return the fp32 value's name."""
    assert weight.scales is not None  # of a static int8 scheme
    codes = weight.layout.from_rows(weight.codes).cpu().numpy()
    is_one = weight.spec.granularity == "tensor"
    scales = weight.scales.reshape(() if is_one else (-1,)).cpu().numpy()
    stored = writer.constant((codes + MIDDLE).astype(np.uint8), "codes")
    steps = writer.constant(scales, "scales")
    middle = writer.constant(np.uint8(MIDDLE), "zero_point")
    if (
        not is_one
    ):  # one number in the file; a vector, as DequantizeLinear wants it, once it is loaded
        middle = writer.add("Expand", middle, writer.add("Shape", steps))
    inputs = [stored, steps, middle]
    attributes: dict[str, Any] = {} if is_one else {"axis": weight.layout.row_axis}
    return writer.add("DequantizeLinear", *inputs, **attributes)


def encode_folded_weight(writer: Writer, weight: QuantizedTensor) -> str:
    """Append a weight that is computed with in fp32; return the fp32 value's name.

    Codes and scales are stored, blocks whole and zeros of sparse weights with the rest. They are cast and multiplied, which
    onnxruntime does once, when it loads the model; a DequantizeLinear it would run each time.
    """
    weight = replace(weight, sparsity=None, mask=None)
    spec, layout, scales = weight.spec, weight.layout, weight.scales
    if scales is None:
        return encode_weight(writer, weight)
    if spec.granularity == "tensor" or (spec.block_shape is None and layout.row_axis is not None):
        shape = [1] * len(layout.shape)
        if spec.granularity != "tensor" and layout.row_axis is not None:
            shape[layout.row_axis] = -1
        codes = layout.from_rows(weight.codes)
        return _multiply(writer, weight, codes, scales.reshape(shape), shape)
    rows, positions, channels = weight.codes.shape
    wide = channels if spec.block_shape is None else spec.block_shape[1]
    count = ceil(channels / wide)
    codes = pad(weight.codes, (0, count * wide - channels)).reshape(rows, -1, wide)
    table = scales.reshape(len(scales), -1, 1)
    value = _multiply(writer, weight, codes, table, table.shape)
    value = writer.add("Reshape", value, writer.sizes(rows, positions, count * wide))
    if count * wide > channels:
        value = writer.add("Slice", value, *(writer.sizes(n) for n in (0, channels, 2)))
    return restore_shape(writer, layout, value, (rows, positions, channels))


def _multiply(
    writer: Writer, weight: QuantizedTensor, codes: Tensor, scales: Tensor, shape: Sequence[int]
) -> str:
    """``codes`` minus zero points, times ``scales``, both of which broadcast from ``shape``; the result's name.

    int8 with one scale, or one a channel, is stored in unsigned codes as on integer kernels, so that its size is one.
    """
    spec = weight.spec
    if spec.block_shape is None and spec.format == "int8" and weight.zeros is None:
        stored = writer.constant((codes + MIDDLE).cpu().numpy().astype(np.uint8), "codes")
        middle = writer.constant(np.uint8(MIDDLE), "zero_point")
        parts = (writer.add("Cast", name, to=_FLOAT) for name in (stored, middle))
        return writer.add("Mul", writer.add("Sub", *parts), store_scales(writer, scales, spec))
    value = writer.add("Cast", store_elements(writer, codes, spec, "codes"), to=_FLOAT)
    if weight.zeros is not None:
        zeros = store_elements(
            writer, weight.zeros.reshape(tuple(shape)), weight.spec, "zero_points"
        )
        zeros = writer.add("Cast", zeros, to=_FLOAT)
        value = writer.add("Sub", value, _for_rows(writer, weight, zeros))
    factors = store_scales(writer, scales, weight.spec)
    return writer.add("Mul", value, _for_rows(writer, weight, factors))


def _for_rows(writer: Writer, weight: QuantizedTensor, table: str) -> str:
    """``table`` with a row for each row of the weight, where one serves all rows of its blocks."""
    spec, rows = weight.spec, weight.layout.rows
    tall = 1 if spec.block_shape is None else spec.block_shape[0]
    if tall == 1:
        return table
    of_rows = writer.table(np.arange(rows, dtype=np.int32) // tall)
    return writer.add("Gather", table, of_rows, axis=0)


def encode_packed_weight(writer: Writer, weight: QuantizedTensor) -> str:
    """Append an integer weight in blocks as MatMulNBits reads it; return the name of what stands for it.

    That is an operator of this module's, which :func:`mpsearch.export.onnxruntime.rewrite.rewrite_layers` puts into the
    product that reads it.
    """
    spec = weight.spec
    assert spec.block_shape is not None  # of a scheme that MatMulNBits takes
    assert weight.scales is not None
    bits, wide, half = spec.element.bits, spec.block_shape[1], 2 ** (spec.element.bits - 1)
    rows, _, channels = weight.codes.shape
    count = ceil(channels / wide)
    codes = pad(weight.codes[:, 0], (0, count * wide - channels)).reshape(rows, count, wide)
    inputs = [
        writer.constant(_pack((codes + half).to(torch.uint8), bits), "codes"),
        store_scales(writer, weight.scales.reshape(rows, count), spec),
    ]
    if weight.zeros is not None:
        zeros = (weight.zeros.reshape(rows, count) + half).to(torch.uint8)
        inputs.append(
            writer.constant(_pack(pad(zeros, (0, -count % (8 // bits))), bits), "zero_points")
        )
    sizes: dict[str, Any] = {"K": channels, "N": rows, "bits": bits, "block_size": wide}
    return writer.add(PACKED, *inputs, domain=PACKED_DOMAIN, **sizes)


def _pack(codes: Tensor, bits: int) -> NDArray[np.uint8]:
    """uint8 codes, two of 4 bits in a byte, the first in its lower half."""
    found = codes.cpu().numpy()
    packed = found if bits == 8 else found[..., 0::2] | (found[..., 1::2] << 4)
    return packed.astype(np.uint8)
