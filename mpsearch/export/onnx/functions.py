"""Model-local functions: operators that only some consumers know, with a body for all others.

``trt::TRT_FP4DynamicQuantize`` is what TensorRT reads. Its body is the nvfp4 arithmetic, so that a consumer
that expands functions computes the same codes. ``mpsearch::MX…DynamicQuantize`` does likewise for OCP MX.
The bodies take any rank: shapes are computed from ``axis`` and ``block_size``, which must divide the axis.
"""

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from mpsearch.formats import find_format

FP4_DYNAMIC = "trt::TRT_FP4DynamicQuantize"
MX_DYNAMIC = {
    "e2m1": "mpsearch::MXFP4DynamicQuantize",
    "e4m3": "mpsearch::MXFP8DynamicQuantize",
    "e5m2": "mpsearch::MXFP8E5M2DynamicQuantize",
}
_CODES = {
    "e2m1": TensorProto.FLOAT4E2M1,
    "e4m3": TensorProto.FLOAT8E4M3FN,
    "e5m2": TensorProto.FLOAT8E5M2,
}
_END = 2**31 - 1
_SMALLEST = 2.0**-126


def make_function(name: str, opset: int) -> FunctionProto:
    """Return the body of the model-local function ``domain::name`` for an ``opset`` of the default domain.

    Raises:
        KeyError: There is no such function.
    """
    domain, _, op_type = name.partition("::")
    if name == FP4_DYNAMIC:
        inputs, body = ["x", "tensor_scale"], _nvfp4_body()
        attributes = ["axis", "block_size", "scale_type"]
    else:
        element = {function: fmt for fmt, function in MX_DYNAMIC.items()}[name]
        inputs, body = ["x"], _mx_body(element)
        attributes = ["axis", "block_size"]
    return helper.make_function(
        domain,
        op_type,
        inputs,
        ["codes", "scales"],
        [*_blocked_shapes(), *body],
        [helper.make_opsetid("", opset)],
        attributes,
    )


def _node(op_type: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def _number(name: str, value: float) -> NodeProto:
    return _node("Constant", "", name, value_float=value)


def _from_attribute(name: str) -> NodeProto:
    node = _node("Constant", "", name)
    reference = AttributeProto(name="value_int", ref_attr_name=name, type=AttributeProto.INT)
    node.attribute.append(reference)
    return node


def _blocked_shapes() -> list[NodeProto]:
    """Nodes for ``shape``, ``scale_shape``, and ``blocked``: x with its axis cut into (blocks, block_size)."""
    return [
        _from_attribute("axis"),
        _from_attribute("block_size"),
        _node("Constant", "", "zero", value_ints=[0]),
        _node("Constant", "", "one", value_ints=[1]),
        _node("Constant", "", "end", value_ints=[_END]),
        _node("Reshape", "axis one", "start"),
        _node("Reshape", "block_size one", "block"),
        _node("Add", "start one", "next"),
        _node("Shape", "x", "shape"),
        _node("Slice", "shape zero start", "before"),
        _node("Slice", "shape start next", "size"),
        _node("Slice", "shape next end", "after"),
        _node("Div", "size block", "blocks"),
        _node("Concat", "before blocks after", "scale_shape", axis=0),
        _node("Concat", "before blocks block after", "blocked_shape", axis=0),
        _node("Reshape", "x blocked_shape", "blocked"),
        _node("Abs", "blocked", "magnitude"),
        _node("ReduceMax", "magnitude next", "amax", keepdims=1),
    ]


def _codes(element: str) -> list[NodeProto]:
    """Nodes from ``blocked`` and ``step`` to ``codes``; a step of 0 gives zeros."""
    top = find_format(element).max_value
    return [
        _number("none", 0.0),
        _number("unit", 1.0),
        _number("top", top),
        _number("bottom", -top),
        _node("Equal", "step none", "empty"),
        _node("Where", "empty unit step", "divisor"),
        _node("Div", "blocked divisor", "units"),
        # Some runtimes do not saturate when they cast.
        _node("Clip", "units bottom top", "clipped"),
        _node("Reshape", "clipped shape", "flat"),
        _node("Cast", "flat", "codes", to=_CODES[element]),
    ]


def _nvfp4_body() -> list[NodeProto]:
    return [
        _number("six", find_format("e2m1").max_value),
        _number("largest_scale", find_format("e4m3").max_value),
        _node("Mul", "tensor_scale six", "reach"),
        # A tensor of zeros has the scale 0: its steps are 0 whatever the block scales are, but none is 0/0.
        _number("nothing", 0.0),
        _number("whole", 1.0),
        _node("Equal", "reach nothing", "silent"),
        _node("Where", "silent whole reach", "bound"),
        _node("Div", "amax bound", "ratio"),
        _node("Min", "ratio largest_scale", "saturated"),
        _node("Cast", "saturated", "blocked_scales", to=TensorProto.FLOAT8E4M3FN),
        _node("Reshape", "blocked_scales scale_shape", "scales"),
        _node("Cast", "blocked_scales", "scale", to=TensorProto.FLOAT),
        _node("Mul", "scale tensor_scale", "step"),
        *_codes("e2m1"),
    ]


def _mx_body(element: str) -> list[NodeProto]:
    emax = find_format(element).max_exponent
    return [
        _number("emax_inverse", 2.0**-emax),
        _number("smallest", _SMALLEST),
        _number("half", 0.5),
        _node("Mul", "amax emax_inverse", "reduced"),
        _node("Max", "reduced smallest", "bounded"),
        _node("Cast", "bounded", "rounded", to=TensorProto.FLOAT8E8M0, round_mode="down"),
        _node("Cast", "rounded", "power", to=TensorProto.FLOAT),
        # Some runtimes round to nearest whatever `round_mode` says.
        _node("Mul", "power half", "lower"),
        _node("Greater", "power bounded", "above"),
        _node("Where", "above lower power", "step"),
        _node("Cast", "step", "blocked_scales", to=TensorProto.FLOAT8E8M0),
        _node("Reshape", "blocked_scales scale_shape", "scales"),
        *_codes(element),
    ]
