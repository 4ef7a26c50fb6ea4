"""Weights in ONNX: typed initialisers that DequantizeLinear turns back into what the layer multiplies with.

Casts and scales per tensor or output channel keep the weight's own shape. Blocks need a matrix: rows are
output channels, columns (kernel position, channel), each position's channels padded with zeros to whole
blocks; what follows the dequantisation brings it back into the operator's own shape.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from mpsearch.export.onnx.builder import Writer, find_type
from mpsearch.formats import find_format
from mpsearch.numerics.layout import Layout
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.schemes import Spec

_FLOAT = int(TensorProto.FLOAT)


def encode_weight(writer: Writer, weight: QuantizedTensor) -> str:
    """Append a weight as typed initialisers and what dequantises them; return the fp32 value's name.

    Raises:
        PlanError: ONNX has no type for the elements.
    """
    spec, layout = weight.spec, weight.layout
    if weight.scales is None:
        return _encode_cast(writer, weight)
    find_type(spec.element)
    if spec.block_shape is None and spec.granularity == "tensor":
        return _dequantize_in_place(writer, weight, weight.scales, None)
    if spec.block_shape is None and layout.row_axis is not None:
        return _dequantize_in_place(writer, weight, weight.scales, layout.row_axis)
    wide = spec.block_shape[1] if spec.block_shape else layout.channels
    padded = -(-layout.channels // wide) * wide
    matrix = _dequantize_matrix(writer, weight, weight.scales, wide, padded)
    return _restore(writer, layout, matrix, padded)


def _encode_cast(writer: Writer, weight: QuantizedTensor) -> str:
    values = weight.dequantize().float().cpu().numpy()
    if weight.spec.format == "fp32":
        return writer.constant(values, "weight")
    _, dtype = find_type(weight.spec.element)
    return writer.add("Cast", writer.constant(values.astype(dtype), "weight"), to=_FLOAT)


def _dequantize_in_place(
    writer: Writer, weight: QuantizedTensor, scales: Tensor, axis: int | None
) -> str:
    """DequantizeLinear on the weight's own shape, with one scale or one along ``axis``."""
    scales = scales.reshape(-1) if axis is not None else scales.reshape(())
    inputs = [
        _store(writer, weight.layout.from_rows(weight.codes), weight.spec, "codes"),
        _scales(writer, scales, weight.spec),
    ]
    if weight.zeros is not None:
        zeros = weight.zeros.reshape(scales.shape)
        inputs.append(_store(writer, zeros, weight.spec, "zero_points"))
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return writer.add("DequantizeLinear", *inputs, **attributes)


def _dequantize_matrix(
    writer: Writer, weight: QuantizedTensor, scales: Tensor, wide: int, padded: int
) -> str:
    """Blocked DequantizeLinear of [rows, positions × padded channels] along axis 1."""
    layout, spec = weight.layout, weight.spec
    R, P, C = layout.rows, layout.positions, layout.channels
    elements = np.zeros((R, P, padded), np.float32)
    elements[:, :, :C] = weight.codes.cpu().numpy()
    matrix = _store(writer, elements.reshape(R, P * padded), spec, "codes")
    blocks = padded // wide
    per_block = scales.expand(-1, P, blocks) if spec.block_shape is None else scales
    tables = [_scales(writer, per_block.reshape(len(per_block), P * blocks), spec)]
    if spec.tensor_scale:
        g = writer.constant(np.float32(weight.tensor_scale), "tensor_scale")
        tables = [writer.add("DequantizeLinear", tables[0], g)]
    if weight.zeros is not None:
        zeros = weight.zeros.expand(-1, P, blocks).reshape(len(weight.zeros), P * blocks)
        tables.append(_store(writer, zeros, spec, "zero_points"))
    if len(per_block) != R:  # tiles of several rows: one table row serves them all
        tall = spec.block_shape[0] if spec.block_shape else R
        rows = writer.constant(np.arange(R) // tall, "rows")
        tables = [writer.add("Gather", table, rows, axis=0) for table in tables]
    attributes: dict[str, Any] = {"axis": 1, "block_size": wide}
    if spec.scale_format == "e8m0":
        writer.opset = max(writer.opset, 24)
        attributes["output_dtype"] = _FLOAT
    return writer.add("DequantizeLinear", matrix, *tables, **attributes)


def _restore(writer: Writer, layout: Layout, matrix: str, padded: int) -> str:
    """Bring [rows, positions × padded channels] into the weight's own shape."""
    sizes = [layout.split[axis] for axis in layout.order]
    value = matrix
    shape: tuple[int, ...] = (layout.rows, layout.positions * padded)
    if padded != layout.channels:
        sizes[-1] = padded
        if shape != tuple(sizes):
            value, shape = writer.add("Reshape", value, writer.sizes(*sizes)), tuple(sizes)
        limits = (writer.sizes(n) for n in (0, layout.channels, len(sizes) - 1))
        value = writer.add("Slice", value, *limits)
        sizes[-1] = layout.channels
        shape = tuple(sizes)
    # Axes of size 1 do not matter to the order, so a plain transpose stays a plain transpose.
    long = [axis for axis in layout.order if layout.split[axis] > 1]
    permutation = [sorted(long).index(axis) for axis in long]
    back = sorted(range(len(long)), key=long.__getitem__)
    if permutation != sorted(permutation):
        merged = tuple(layout.split[axis] for axis in long)
        if shape != merged:
            value = writer.add("Reshape", value, writer.sizes(*merged))
        value = writer.add("Transpose", value, perm=back)
        shape = tuple(merged[i] for i in back)
    if shape != layout.shape:
        value = writer.add("Reshape", value, writer.sizes(*layout.shape))
    return value


def _scales(writer: Writer, scales: Tensor, spec: Spec) -> str:
    """Scales in their own type; those of fp16 and bf16 are cast up, since a scale's type is the result's."""
    values = scales.cpu().numpy()
    if spec.scale_format in (None, "fp32"):
        return writer.constant(values, "scales")
    if spec.scale_format == "e8m0" and spec.block_shape is None:
        return writer.constant(values, "scales")
    _, dtype = find_type(find_format(str(spec.scale_format)))
    stored = writer.constant(values.astype(dtype), "scales")
    if spec.scale_format in ("fp16", "bf16") or not (
        spec.tensor_scale or spec.scale_format == "e8m0"
    ):
        return writer.add("Cast", stored, to=_FLOAT)
    return stored


def _store(writer: Writer, elements: Tensor | NDArray[Any], spec: Spec, role: str) -> str:
    values = elements if isinstance(elements, np.ndarray) else elements.cpu().numpy()
    return writer.constant(values.astype(find_type(spec.element)[1]), role)
