"""Activations in ONNX: casts, quantise/dequantise pairs, and live scales for tokens and blocks."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from onnx import TensorProto

from mpsearch.errors import PlanError
from mpsearch.export.onnx.builder import Writer, find_type
from mpsearch.export.onnx.functions import FP4_DYNAMIC, MX_DYNAMIC
from mpsearch.formats import find_format
from mpsearch.numerics.range import Range
from mpsearch.schemes import Spec

_FP8_SCALES = int(TensorProto.FLOAT8E4M3FN)  # what TensorRT's attribute `scale_type` wants
_FLOAT = int(TensorProto.FLOAT)
_INT8 = int(TensorProto.INT8)


@dataclass(frozen=True, slots=True)
class Activation:
    """A tensor that a layer reads.

    Attributes:
        value: Its name in the graph.
        rank: Number of axes.
        axis: Non-negative axis of the reduction.
        size: Elements along that axis.
        groups: Convolution groups that the axis spans; blocks do not cross them.
    """

    value: str
    rank: int
    axis: int
    size: int
    groups: int = 1

    @property
    def channels(self) -> int:
        """Elements of one group along the reduction."""
        return self.size // self.groups


def encode_activation(
    writer: Writer, activation: Activation, spec: Spec, found: Range | None
) -> str:
    """Append what rounds ``activation`` to ``spec`` and return the rounded value's name (fp32).

    Args:
        writer: Receives nodes and tensors.
        activation: The tensor.
        spec: Activation spec of a scheme.
        found: Calibrated range; needed by static specs with a scale for the whole tensor.

    Raises:
        PlanError: ONNX has no encoding for the spec, or its range is missing.
    """
    check_activation_spec(spec)
    if spec.is_cast:
        return encode_cast(writer, activation.value, spec.format)
    if spec.granularity == "tensor" and spec.range == "static":
        return _static(writer, activation.value, spec, need_range(found, activation, spec))
    if spec.tensor_scale:
        scale = need_range(found, activation, spec).scale if spec.range == "static" else None
        return _blocks(writer, activation, spec, scale)
    if spec.scale_format == "e8m0" and spec.block_shape is not None:
        return _blocks(writer, activation, spec, None)
    return _live(writer, activation, spec)


def encode_cast(writer: Writer, value: str, format: str, *, output: str = "") -> str:
    """Append the round trip of ``value`` through ``format`` and return the result's name (fp32)."""
    if format == "fp32":
        return writer.add("Identity", value, output=output) if output else value
    element = find_format(format)
    dtype, _ = find_type(element)
    if element.overflow == "saturate":
        value = _clip(writer, value, element.max_value)
    narrow = writer.add("Cast", value, to=dtype)
    return writer.add("Cast", narrow, to=_FLOAT, output=output)


def check_activation_spec(spec: Spec) -> None:
    """Raise a :class:`PlanError` if ONNX cannot round an activation to ``spec``."""
    find_type(spec.element)
    if not spec.subnormals:
        raise PlanError(f"ONNX must keep subnormals, but {spec.format} is asked to flush them")
    if spec.block_scale != "amax":
        raise PlanError(
            f"block scales of activations must come from their amax in ONNX, got {spec.block_scale}"
        )
    if spec.block_shape is not None and spec.block_shape[0] != 1:
        raise PlanError(
            f"blocks of activations must be one row high in ONNX, got {spec.block_shape[0]}"
        )
    live = spec.range == "dynamic" or spec.block_shape is not None
    if live and (spec.estimator != "amax" or not spec.symmetric):
        raise PlanError(
            "live scales must be symmetric and come from amax in ONNX, got "
            f"estimator={spec.estimator!r}, symmetric={spec.symmetric}"
        )


def need_range(found: Range | None, activation: Activation, spec: Spec) -> Range:
    """Return ``found``.

    Raises:
        PlanError: There is none.
    """
    if found is None:
        raise PlanError(f"a calibrated range is needed for {activation.value!r} in {spec.format}")
    return found


def _clip(writer: Writer, value: str, limit: float) -> str:
    return writer.add("Clip", value, writer.number(-limit), writer.number(limit))


def _static(writer: Writer, value: str, spec: Spec, found: Range) -> str:
    """Quantise and dequantise with one constant scale; no zero point where it would be 0."""
    step = found.scale or 1.0  # nothing but zeros was seen
    dtype, numpy_dtype = find_type(spec.element)
    scale = writer.constant(np.float32(step), "scale")
    if spec.format == "e2m1" or (spec.element.kind == "int" and spec.element.bits not in (4, 8)):
        return _divide_and_cast(writer, value, scale, spec)
    if not spec.symmetric:
        zero = writer.constant(np.array(found.zero_point).astype(numpy_dtype), "zero_point")
        codes = writer.add("QuantizeLinear", value, scale, zero)
        return writer.add("DequantizeLinear", codes, scale, zero)
    if spec.element.kind == "int":
        # Symmetric codes end at -127; QuantizeLinear alone would reach -128.
        value = _clip(writer, value, float(np.float32(spec.element.max_value) * np.float32(step)))
    codes = writer.add("QuantizeLinear", value, scale, output_dtype=dtype)
    return writer.add("DequantizeLinear", codes, scale)


def _divide_and_cast(writer: Writer, value: str, step: str, spec: Spec) -> str:
    """Round ``value / step`` to the elements and multiply back; ``step`` > 0 broadcasts."""
    element = spec.element
    units = _clip(writer, writer.add("Div", value, step), element.max_value)
    dtype = find_type(element)[0]
    if element.kind == "int":
        units, dtype = writer.add("Round", units), _INT8
    codes = writer.add("Cast", units, to=dtype)
    return writer.add("Mul", writer.add("Cast", codes, to=_FLOAT), step)


def _live(writer: Writer, activation: Activation, spec: Spec) -> str:
    """Scales from the live tensor: of all of it, of each token, or of blocks with plain scales."""
    value, axis = activation.value, activation.axis
    if spec.granularity == "tensor":
        amax = writer.add("ReduceMax", writer.add("Abs", value), keepdims=0)
        return _divide_and_cast(writer, value, _live_step(writer, amax, spec), spec)
    if spec.block_shape is None:
        return _along(writer, value, axis, spec)
    wide = spec.block_shape[1]
    if activation.groups == 1 and activation.channels <= wide:
        return _along(writer, value, axis, spec)
    count = ceil(activation.channels / wide)
    view = open_view(writer, activation, count * wide, split=True)
    blocks = (*[0] * axis, activation.groups * count, wide, -1)
    rounded = _along(
        writer, writer.add("Reshape", view.value, writer.sizes(*blocks)), axis + 1, spec
    )
    whole = (*[0] * axis, activation.groups, count * wide, -1)
    joined = writer.add("Reshape", rounded, writer.sizes(*whole))
    return close_view(writer, activation, view, joined)


def _along(writer: Writer, value: str, axis: int, spec: Spec) -> str:
    """One scale for each slice along ``axis``."""
    magnitude = writer.add("Abs", value)
    amax = writer.add("ReduceMax", magnitude, writer.sizes(axis), keepdims=1)
    return _divide_and_cast(writer, value, _live_step(writer, amax, spec), spec)


def _live_step(writer: Writer, amax: str, spec: Spec) -> str:
    step = writer.add("Div", amax, writer.number(spec.element.max_value))
    if spec.scale_format != "fp32":
        if spec.scale_format not in ("fp16", "bf16"):
            raise PlanError(
                f"live scales must be fp32, fp16 or bf16 in ONNX, got {spec.scale_format}"
            )
        limit = find_format(spec.scale_format).max_value
        step = encode_cast(writer, _clip(writer, step, limit), spec.scale_format)
    return writer.add("Max", step, writer.number(2.0**-126))


def _blocks(writer: Writer, activation: Activation, spec: Spec, scale: float | None) -> str:
    """Block formats: an operator with a local body makes codes and scales, then they are dequantised."""
    assert spec.block_shape is not None  # checked by the caller
    wide = spec.block_shape[1]
    size = ceil(activation.channels / wide) * wide
    view = open_view(writer, activation, size, split=False)
    where: dict[str, Any] = {"axis": view.axis, "block_size": wide}
    if spec.tensor_scale:
        if scale is None:
            amax = writer.add("ReduceMax", writer.add("Abs", activation.value), keepdims=0)
            unit = spec.element.max_value * find_format(str(spec.scale_format)).max_value
            tensor_scale = writer.add("Div", amax, writer.number(unit))
        else:
            tensor_scale = writer.constant(np.float32(scale), "tensor_scale")
        codes, scales = writer.call(
            FP4_DYNAMIC, view.value, tensor_scale, outputs=2, **where, scale_type=_FP8_SCALES
        )
        scales = writer.add("DequantizeLinear", scales, tensor_scale)
        rounded = writer.add("DequantizeLinear", codes, scales, **where)
        return close_view(writer, activation, view, rounded)
    if spec.format not in MX_DYNAMIC:
        raise PlanError(f"ONNX must have a type for MX blocks of {spec.format}, but has none")
    writer.opset = max(writer.opset, 24)
    codes, scales = writer.call(MX_DYNAMIC[spec.format], view.value, outputs=2, **where)
    rounded = writer.add("DequantizeLinear", codes, scales, **where, output_dtype=_FLOAT)
    return close_view(writer, activation, view, rounded)


@dataclass(frozen=True, slots=True)
class View:
    """A tensor with each group's channels padded with zeros.

    Attributes:
        value: The padded value's name.
        axis: Its axis along which blocks run.
        is_split: Whether groups have an axis of their own, before ``axis``, and one axis holds all behind.
        is_padded: Whether there is anything to cut off again.
    """

    value: str
    axis: int
    is_split: bool
    is_padded: bool


def open_view(writer: Writer, activation: Activation, size: int, *, split: bool) -> View:
    """Append what pads each group's channels to ``size``, which splits groups from channels where it must."""
    channels, axis, value = activation.channels, activation.axis, activation.value
    is_padded = size != channels
    is_split = split or (is_padded and activation.groups > 1)
    if is_split:
        shape = writer.sizes(*[0] * axis, activation.groups, channels, -1)
        value, axis = writer.add("Reshape", value, shape), axis + 1
    if is_padded:
        pads = writer.sizes(0, size - channels)
        value = writer.add("Pad", value, pads, "", writer.sizes(axis))
    return View(value, axis, is_split, is_padded)


def close_view(writer: Writer, activation: Activation, view: View, value: str) -> str:
    """Append what brings ``value``, shaped like the view, into the tensor's own shape; return its name."""
    if view.is_padded:
        limits = (writer.sizes(n) for n in (0, activation.channels, view.axis))
        value = writer.add("Slice", value, *limits)
    if view.is_split:
        value = writer.add("Reshape", value, writer.add("Shape", activation.value))
    return value
