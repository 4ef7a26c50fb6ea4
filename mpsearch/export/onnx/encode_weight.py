"""Weights in ONNX: typed initialisers that DequantizeLinear turns back into what the layer multiplies with.

Casts and scales per tensor or output channel keep the weight's own shape. Blocks and sparse weights need a matrix:
rows are output channels, columns (kernel position, channel). Nothing is padded: where channels do not fill their
last block, the short blocks are a matrix of their own. Of a sparse weight the kept elements are stored, and their
places in as many bits as hardware takes; integers of 2, 3, 5, 6 or 7 bits are unpacked from bytes. What follows the dequantisation brings all into the operator's own shape.
"""

from math import lcm
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from mpsearch.export.onnx.builder import Writer, find_type
from mpsearch.formats import find_format
from mpsearch.numerics.layout import Layout
from mpsearch.numerics.packing import index_bits, kept_places, pack_bits
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.schemes import Spec, parse_sparsity, thins

_FLOAT = int(TensorProto.FLOAT)
_INT32 = int(TensorProto.INT32)


def encode_weight(writer: Writer, weight: QuantizedTensor) -> str:
    """Append a weight as typed initialisers and what dequantises them; return the fp32 value's name.

    Raises:
        PlanError: ONNX has no type for the elements.
    """
    spec, layout = weight.spec, weight.layout
    find_type(spec.element)
    if not _can_drop_zeros(weight):
        if weight.scales is None:
            return _cast(writer, layout.from_rows(weight.codes), spec)
        is_vector = spec.block_shape is None and layout.row_axis is not None
        if spec.granularity == "tensor" or is_vector:
            return _dequantize_in_place(writer, weight, weight.scales)
        value, shape = _dequantize_rows(writer, weight, weight.codes)
    else:
        value, _ = _dequantize_rows(writer, weight, _kept_codes(weight))
        value, shape = _spread_kept(writer, weight, value)
    return restore_shape(writer, layout, value, shape)


def _cast(writer: Writer, values: Tensor, spec: Spec) -> str:
    """Elements without scales, as fp32."""
    stored = store_elements(writer, values, spec, "weight")
    return stored if spec.format == "fp32" else writer.add("Cast", stored, to=_FLOAT)


def _can_drop_zeros(weight: QuantizedTensor) -> bool:
    """Whether only kept elements are stored."""
    if weight.sparsity is None or weight.mask is None:
        return False
    return thins(weight.spec, weight.sparsity)


def _kept_codes(weight: QuantizedTensor) -> Tensor:
    """[rows, positions, kept channels]: every group of the pattern keeps equally many."""
    assert weight.mask is not None  # the caller checks it
    return weight.codes[weight.mask].reshape(*weight.codes.shape[:2], -1)


def _dequantize_in_place(writer: Writer, weight: QuantizedTensor, scales: Tensor) -> str:
    """DequantizeLinear on the weight's own shape, with one scale or one for each of its rows."""
    is_one = weight.spec.granularity == "tensor"
    shape = () if is_one else (-1,)
    inputs = [
        store_elements(writer, weight.layout.from_rows(weight.codes), weight.spec, "codes"),
        store_scales(writer, scales.reshape(shape), weight.spec),
    ]
    if weight.zeros is not None:
        inputs.append(
            store_elements(writer, weight.zeros.reshape(shape), weight.spec, "zero_points")
        )
    attributes: dict[str, Any] = {} if is_one else {"axis": weight.layout.row_axis}
    return writer.add("DequantizeLinear", *inputs, **attributes)


def _dequantize_rows(
    writer: Writer, weight: QuantizedTensor, codes: Tensor
) -> tuple[str, tuple[int, ...]]:
    """``codes`` [rows, positions, channels] dequantised, and the shape of the result."""
    spec, scales, zeros = weight.spec, weight.scales, weight.zeros
    R, P, C = codes.shape
    if scales is None:
        return _cast(writer, codes.reshape(R, P * C), spec), (R, P * C)
    if spec.block_shape is None:
        shape = () if spec.granularity == "tensor" else (R,)
        inputs = [
            store_elements(writer, codes.reshape(R, P * C), spec, "codes"),
            store_scales(writer, scales.reshape(shape), spec),
        ]
        if zeros is not None:
            inputs.append(store_elements(writer, zeros.reshape(shape), spec, "zero_points"))
        return writer.add("DequantizeLinear", *inputs, axis=0), (R, P * C)
    wide = spec.block_shape[1] * C // weight.layout.channels  # fewer where only kept ones are here
    whole = C // wide  # blocks; then perhaps a short one
    cuts = [(0, whole * wide, slice(0, whole)), (whole * wide, C, slice(whole, None))]
    parts: list[str] = []
    shared: dict[str, str] = {}
    for start, stop, blocks in cuts:
        if start < stop:
            matrix = store_elements(writer, codes[:, :, start:stop].reshape(R, -1), spec, "codes")
            attributes: dict[str, Any] = {"axis": 1, "block_size": min(wide, stop - start)}
            if spec.scale_format == "e8m0":
                writer.opset = max(writer.opset, 24)
                attributes["output_dtype"] = _FLOAT
            tables = _tables(writer, weight, scales, blocks, shared)
            parts.append(writer.add("DequantizeLinear", matrix, *tables, **attributes))
    if len(parts) == 1:
        return parts[0], (R, P * C)
    widths = [stop - start for start, stop, _ in cuts]
    shaped = [
        writer.add("Reshape", value, writer.sizes(R, P, width))
        for value, width in zip(parts, widths, strict=True)
    ]
    return writer.add("Concat", *shaped, axis=2), (R, P, C)


def _tables(
    writer: Writer, weight: QuantizedTensor, scales: Tensor, blocks: slice, shared: dict[str, str]
) -> list[str]:
    """Scales, and zero points, of some blocks of channels: [rows, positions × blocks]; ``shared`` is made once."""
    spec, rows = weight.spec, weight.layout.rows
    tables = [store_scales(writer, scales[:, :, blocks].reshape(len(scales), -1), spec)]
    if spec.tensor_scale:
        if "g" not in shared:
            shared["g"] = writer.constant(np.float32(weight.tensor_scale), "tensor_scale")
        tables = [writer.add("DequantizeLinear", tables[0], shared["g"])]
    if weight.zeros is not None:
        zeros = weight.zeros[:, :, blocks].reshape(len(scales), -1)
        tables.append(store_elements(writer, zeros, spec, "zero_points"))
    if len(scales) == rows:
        return tables
    tall = spec.block_shape[0] if spec.block_shape else rows
    if "rows" not in shared:  # one row of a table serves all rows of its tiles
        every = writer.add("Range", *(writer.whole(n) for n in (0, rows, 1)))
        shared["rows"] = writer.add("Div", every, writer.whole(tall))
    return [writer.add("Gather", table, shared["rows"], axis=0) for table in tables]


def _spread_kept(
    writer: Writer, weight: QuantizedTensor, value: str
) -> tuple[str, tuple[int, ...]]:
    """Kept elements at their places in [groups, places, elements of a unit], zeros elsewhere."""
    assert weight.sparsity is not None  # the caller checks both
    assert weight.mask is not None
    pattern = parse_sparsity(weight.sparsity)
    places, kept = pattern.group // pattern.unit, pattern.kept // pattern.unit
    groups = weight.codes.numel() // pattern.group
    places_of = kept_places(weight.mask, weight.sparsity)
    where = _unpack(writer, places_of, index_bits(weight.sparsity), "indices")
    where = writer.add("Reshape", where, writer.sizes(groups, kept, 1, 1))
    all_places = writer.table(np.arange(places, dtype=np.int32).reshape(1, 1, places, 1))
    kept_values = writer.add("Reshape", value, writer.sizes(groups, kept, 1, pattern.unit))
    here = writer.add("Equal", where, all_places)
    spread = writer.add("Where", here, kept_values, writer.number(0.0))
    total = writer.add("ReduceSum", spread, writer.sizes(1), keepdims=0)
    return total, (groups, places, pattern.unit)


def _unpack(writer: Writer, codes: Tensor, bits: int, role: str) -> str:
    """uint8 ``codes`` [n] stored in ``bits`` bits each, up to 8, as int32 [n]."""
    width = lcm(bits, 8)  # of a word that holds whole codes
    packed = pack_bits(codes, bits)
    packed = torch.nn.functional.pad(packed, (0, -len(packed) % (width // 8)))
    stored = writer.constant(packed.reshape(-1, width // 8).numpy(), role)
    parts = writer.add("Cast", stored, to=_INT32)
    starts = np.arange(0, width, bits, dtype=np.int32)
    if width > 8:  # a code lies in one byte or in two neighbours; the latter's upper bits fall off
        low, high = (
            writer.add("Gather", parts, writer.table(np.minimum(byte, width // 8 - 1)), axis=1)
            for byte in (starts // 8, starts // 8 + 1)
        )
        up = writer.add("Mul", high, writer.table(np.array(256, np.int32)))
        parts = writer.add("Add", low, up)
    shifted = writer.add("Div", parts, writer.table(2 ** (starts % 8)))
    unpacked = writer.add("Mod", shifted, writer.table(np.array(2**bits, np.int32)))
    flat = writer.add("Reshape", unpacked, writer.sizes(-1))
    if len(packed) * 8 // bits == len(codes):
        return flat
    return writer.add("Slice", flat, writer.sizes(0), writer.sizes(len(codes)), writer.sizes(0))


def restore_shape(writer: Writer, layout: Layout, value: str, shape: tuple[int, ...]) -> str:
    """Bring ``value``, whose ``shape`` cuts (row, position, channel), into the weight's own shape."""
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


def store_scales(writer: Writer, scales: Tensor, spec: Spec) -> str:
    """Scales in their own type; those of fp16 and bf16 are cast up, since a scale's type is the result's."""
    values = scales.cpu().numpy()
    if spec.scale_format in (None, "fp32"):
        return writer.constant(values, "scales")
    if spec.scale_format == "e8m0" and spec.block_shape is None:
        bias = find_format("e8m0").bias
        codes = writer.constant((np.log2(values) + bias).astype(np.uint8), "scales")
        exponents = writer.add(
            "Sub", writer.add("Cast", codes, to=_FLOAT), writer.number(float(bias))
        )
        return writer.add("Pow", writer.number(2.0), exponents)
    _, dtype = find_type(find_format(str(spec.scale_format)))
    stored = writer.constant(values.astype(dtype), "scales")
    if spec.scale_format in ("fp16", "bf16") or not (
        spec.tensor_scale or spec.scale_format == "e8m0"
    ):
        return writer.add("Cast", stored, to=_FLOAT)
    return stored


def store_elements(writer: Writer, elements: Tensor, spec: Spec, role: str) -> str:
    """Elements in their own type; integers that ONNX has none for lie in as many bits as they have."""
    element = spec.element
    if element.kind != "int" or element.bits in (4, 8):
        values = elements.float().cpu().numpy().astype(find_type(element)[1])
        return writer.constant(values, role)
    half = 2 ** (element.bits - 1)
    codes = (elements.reshape(-1).cpu() + half).to(torch.uint8)
    unpacked = _unpack(writer, codes, element.bits, role)
    signed = writer.add("Sub", unpacked, writer.table(np.array(half, np.int32)))
    narrow = writer.add("Cast", signed, to=find_type(element)[0])
    if not elements.ndim:
        return writer.add("Squeeze", narrow)
    return writer.add("Reshape", narrow, writer.sizes(*elements.shape))
