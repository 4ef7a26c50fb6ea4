"""Models of one kernel each, written as exports for onnxruntime are: fp32, or int8 between plain fp32 tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mpsearch.cost.executed.kernel_shapes import KernelShape

Array = NDArray[Any]

_OPSET, _IR = 21, 10
_MIDDLE = 128
_STEP, _OUT_STEP, _WEIGHT_STEP = 0.03, 0.2, 0.01
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class KernelModel:
    """A model that runs one kernel.

    Attributes:
        model: Inputs ``x`` and, for a product of activations, ``z``; one output.
        feeds: Data of its inputs' shapes.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]


@dataclass(slots=True)
class _Build:
    shape: KernelShape
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, values: Array) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name


def float_kernel(shape: KernelShape, *, seed: int = 0) -> KernelModel:
    """Return the kernel in fp32."""
    build = _Build(shape, np.random.default_rng(seed))
    right = "z"
    if shape.has_weight:
        weight = build.rng.standard_normal(shape.right).astype(np.float32)
        right = build.constant("weight", weight)
    inputs = ["x", right]
    if shape.has_bias:
        bias = build.constant("bias", _bias(build))
        if shape.op_type != "MatMul":
            inputs.append(bias)
    value = build.add(shape.op_type, inputs, "product", **dict(shape.attributes))
    if shape.has_bias and shape.op_type == "MatMul":
        value = build.add("Add", [value, "bias"], "sum")
    if shape.has_relu:
        value = build.add("Relu", [value], "relu")
    return _finish(build, value)


def integer_kernel(shape: KernelShape, *, seed: int = 0) -> KernelModel:
    """Return the kernel on int8 operands that are rounded from fp32; a convolution's result is rounded too."""
    build = _Build(shape, np.random.default_rng(seed))
    left = _round(build, "x", _STEP, _MIDDLE)
    right = _integer_weight(build) if shape.has_weight else _round(build, "z", _STEP, _MIDDLE)
    inputs = [left, right]
    is_conv = shape.op_type in _CONVOLUTIONS
    if shape.has_bias and is_conv:
        scales = np.full(_columns(shape), _STEP * _WEIGHT_STEP, np.float32)
        codes = build.constant("bias/codes", np.round(_bias(build) / scales).astype(np.int32))
        steps = build.constant("bias/scales", scales)
        inputs.append(build.add("DequantizeLinear", [codes, steps], "bias", axis=0))
    value = build.add(shape.op_type, inputs, "product", **dict(shape.attributes))
    if shape.has_bias and not is_conv:
        bias = build.constant("bias", _bias(build))
        value = build.add("Sub" if shape.op_type == "Gemm" else "Sum", [value, bias], "sum")
    if shape.has_relu:
        value = build.add("Relu", [value], "relu")
    if is_conv:
        value = _round(build, value, _OUT_STEP, 0 if shape.has_relu else _MIDDLE)
    return _finish(build, value)


def rounding_pair(sizes: tuple[int, ...], *, seed: int = 0) -> KernelModel:
    """Return a model that rounds a tensor to int8 and brings it back as fp32 layers of an export read it."""
    build = _Build(KernelShape("", sizes, ()), np.random.default_rng(seed))
    limits = [
        build.constant(f"limit/{code}", np.array((code - _MIDDLE) * _STEP, np.float32))
        for code in (-1, 256)
    ]
    value = build.add("Clip", [_round(build, "x", _STEP, _MIDDLE), *limits], "held")
    model = _model(build.nodes, {"x": sizes}, [value], build.tensors)
    return KernelModel(model, {"x": build.rng.standard_normal(sizes).astype(np.float32)})


def emulated_rounding(sizes: tuple[int, ...], *, seed: int = 0) -> KernelModel:
    """Return a model that rounds a tensor in fp32 arithmetic, as layers without a kernel on codes have it."""
    build = _Build(KernelShape("", sizes, ()), np.random.default_rng(seed))
    step, low, high = (
        build.constant(name, np.array(value, np.float32))
        for name, value in (("step", _STEP), ("low", -127.0), ("high", 127.0))
    )
    value = build.add("Round", [build.add("Div", ["x", step], "units")], "whole")
    value = build.add("Mul", [build.add("Clip", [value, low, high], "clipped"), step], "rounded")
    model = _model(build.nodes, {"x": sizes}, [value], build.tensors)
    return KernelModel(model, {"x": build.rng.standard_normal(sizes).astype(np.float32)})


def empty_model() -> KernelModel:
    """Return a model that does next to nothing: what a call of the runtime takes."""
    node = helper.make_node("Neg", ["x"], ["y"], "y")
    model = _model([node], {"x": (1,)}, ["y"], [])
    return KernelModel(model, {"x": np.zeros(1, np.float32)})


def reference_model() -> KernelModel:
    """Return a model of a convolution, a sum and a matrix product: what times are measured against."""
    rng = np.random.default_rng(0)
    weights = {
        "conv": rng.standard_normal((32, 32, 3, 3)).astype(np.float32) / 17,
        "gemm": rng.standard_normal((196, 196)).astype(np.float32) / 14,
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Add", ["c", "x"], ["s"], "s"),
        helper.make_node("Reshape", ["s", "shape"], ["r"], "r"),
        helper.make_node("MatMul", ["r", "gemm"], ["y"], "y"),
    ]
    tensors = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([-1, 196], np.int64), "shape"))
    sizes = (1, 32, 14, 14)
    model = _model(nodes, {"x": sizes}, ["y"], tensors)
    return KernelModel(model, {"x": rng.standard_normal(sizes).astype(np.float32)})


def _columns(shape: KernelShape) -> int:
    if shape.op_type == "Conv":
        return shape.right[0]
    if shape.op_type == "ConvTranspose":
        return shape.right[1] * int(str(dict(shape.attributes).get("group", 1)))
    is_transposed = bool(dict(shape.attributes).get("transB", 0))
    return shape.right[-2 if is_transposed else -1]


def _axis(shape: KernelShape) -> int:
    """Axis of the weight that indexes output channels."""
    if shape.op_type == "Conv":
        return 0
    if shape.op_type == "ConvTranspose":
        return 1
    return len(shape.right) - (2 if dict(shape.attributes).get("transB", 0) else 1)


def _bias(build: _Build) -> Array:
    return build.rng.standard_normal(_columns(build.shape)).astype(np.float32)


def _integer_weight(build: _Build) -> str:
    shape = build.shape
    count = shape.right[_axis(shape)]
    codes = build.rng.integers(1, 256, shape.right).astype(np.uint8)
    inputs = [
        build.constant("weight/codes", codes),
        build.constant("weight/scales", np.full(count, _WEIGHT_STEP, np.float32)),
        build.constant("weight/zero_points", np.full(count, _MIDDLE, np.uint8)),
    ]
    return build.add("DequantizeLinear", inputs, "weight", axis=_axis(shape))


def _round(build: _Build, value: str, step: float, zero: int) -> str:
    scale = [
        build.constant(f"{value}/scale", np.array(step, np.float32)),
        build.constant(f"{value}/zero_point", np.array(zero, np.uint8)),
    ]
    codes = build.add("QuantizeLinear", [value, *scale], f"{value}/codes")
    return build.add("DequantizeLinear", [codes, *scale], f"{value}/rounded")


def _finish(build: _Build, value: str) -> KernelModel:
    shapes = {"x": build.shape.left}
    if not build.shape.has_weight:
        shapes["z"] = build.shape.right
    model = _model(build.nodes, shapes, [value], build.tensors, build.shape.is_free)
    feeds = {n: build.rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return KernelModel(model, feeds)


def _model(
    nodes: list[onnx.NodeProto],
    shapes: Mapping[str, tuple[int, ...]],
    outputs: list[str],
    tensors: list[onnx.TensorProto],
    is_free: bool = False,
) -> onnx.ModelProto:
    def info(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        sizes = ["n", *shape[1:]] if is_free else list(shape)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)

    graph = helper.make_graph(
        nodes,
        "kernel",
        [info(name, shape) for name, shape in shapes.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        tensors,
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR)
