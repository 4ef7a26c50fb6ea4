"""The export for OpenVINO on a CPU: the canonical model without functions, at any batch.

OpenVINO expands no local functions, and converts a DequantizeLinear in blocks only where every size is known. Activations
in blocks are therefore divided, cast and multiplied in a view whose batch stays free; everything else is canonical.
"""

import json
from math import ceil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from mpsearch.export.onnx.builder import Writer, find_type
from mpsearch.export.onnx.canonical import Encoding, Weights, build_canonical
from mpsearch.export.onnx.encode_activation import (
    Activation,
    close_view,
    encode_activation,
    need_range,
    open_view,
)
from mpsearch.export.onnx.write_model import write_model
from mpsearch.formats import find_format
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.range import Range
from mpsearch.plan.plan import Plan
from mpsearch.runtimes.settings import OPENVINO
from mpsearch.schemes import Spec

CONFIG = "openvino_config.json"
_FLOAT = int(TensorProto.FLOAT)
_SMALLEST = 2.0**-126


def export(plan: Plan, graph: ModelGraph, weights: Weights, folder: Path) -> list[Path]:
    """Write ``model.onnx`` and ``openvino_config.json``, the settings to compile it with; return the files written.

    Raises:
        PlanError: The plan does not fit, or ONNX cannot say what one of its schemes does.
    """
    files = write_model(build_openvino(plan, graph, weights), folder)
    path = folder / CONFIG
    path.write_text(json.dumps({"CPU": OPENVINO}, indent=1) + "\n")  # as benchmark_app reads it
    return [*files, path]


def build_openvino(plan: Plan, graph: ModelGraph, weights: Weights) -> onnx.ModelProto:
    """Return the model of ``plan`` for OpenVINO.

    Args:
        plan: Made for ``graph``.
        graph: The folded model.
        weights: Gives the simulation's own weights.

    Raises:
        PlanError: The plan does not fit, or ONNX cannot say what one of its schemes does.
    """
    return build_canonical(plan, graph, weights, Encoding(activation=_encode_activation))


def _encode_activation(
    writer: Writer, read: Activation, spec: Spec, found: Range | None, _: bool
) -> str:
    """Append what rounds an activation, blocks of live scales in plain operators; return the rounded value's name."""
    if spec.block_shape is None or spec.scale_format not in ("e4m3", "e8m0"):
        return encode_activation(writer, read, spec, found)
    wide = spec.block_shape[1]
    count = ceil(read.channels / wide)
    view = open_view(writer, read, count * wide, split=True)
    blocks = (*[0] * read.axis, read.groups * count, wide, -1)
    value = writer.add("Reshape", view.value, writer.sizes(*blocks))
    amax = writer.add(
        "ReduceMax", writer.add("Abs", value), writer.sizes(read.axis + 1), keepdims=1
    )
    step = (
        _fp4_step(writer, read, spec, found, amax)
        if spec.tensor_scale
        else _mx_step(writer, spec, amax)
    )
    is_empty = writer.add("Equal", step, writer.number(0.0))
    divisor = writer.add("Where", is_empty, writer.number(1.0), step)
    top = spec.element.max_value
    units = writer.add(
        "Clip", writer.add("Div", value, divisor), writer.number(-top), writer.number(top)
    )
    if spec.element.kind == "int":
        units = writer.add("Round", units)
    codes = writer.add("Cast", units, to=find_type(spec.element)[0])
    rounded = writer.add("Mul", writer.add("Cast", codes, to=_FLOAT), step)
    whole = (*[0] * read.axis, read.groups, count * wide, -1)
    return close_view(writer, read, view, writer.add("Reshape", rounded, writer.sizes(*whole)))


def _fp4_step(writer: Writer, read: Activation, spec: Spec, found: Range | None, amax: str) -> str:
    """Block scales in e4m3, in units of the tensor's scale."""
    largest = find_format(str(spec.scale_format)).max_value
    if spec.range == "static":
        g = writer.constant(np.float32(need_range(found, read, spec).scale), "tensor_scale")
    else:
        total = writer.add("ReduceMax", writer.add("Abs", read.value), keepdims=0)
        g = writer.add("Div", total, writer.number(spec.element.max_value * largest))
    reach = writer.add("Mul", g, writer.number(spec.element.max_value))
    is_silent = writer.add("Equal", reach, writer.number(0.0))
    bound = writer.add("Where", is_silent, writer.number(1.0), reach)
    ratio = writer.add("Min", writer.add("Div", amax, bound), writer.number(largest))
    scale = writer.add("Cast", ratio, to=find_type(find_format("e4m3"))[0])
    return writer.add("Mul", writer.add("Cast", scale, to=_FLOAT), g)


def _mx_step(writer: Writer, spec: Spec, amax: str) -> str:
    """The power of two at or below each block's amax, in units of the element's largest power."""
    reduced = writer.add("Mul", amax, writer.number(2.0**-spec.element.max_exponent))
    bounded = writer.add("Max", reduced, writer.number(_SMALLEST))
    writer.opset = max(writer.opset, 24)
    rounded = writer.add("Cast", bounded, to=find_type(find_format("e8m0"))[0], round_mode="down")
    power = writer.add("Cast", rounded, to=_FLOAT)
    # OpenVINO rounds to nearest whatever `round_mode` says.
    lower = writer.add("Mul", power, writer.number(0.5))
    return writer.add("Where", writer.add("Greater", power, bounded), lower, power)
