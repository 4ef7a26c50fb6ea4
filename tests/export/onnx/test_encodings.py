"""Each encoding, run by a real runtime, gives what the simulation computes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from mpsearch.errors import PlanError
from mpsearch.export.onnx.builder import Writer
from mpsearch.export.onnx.encode_activation import Activation, encode_activation
from mpsearch.export.onnx.encode_weight import encode_weight
from mpsearch.export.onnx.functions import make_function
from mpsearch.numerics.quantize import quantize_activation, quantize_weight, simulate_weight
from mpsearch.numerics.ranges import make_range
from mpsearch.runtimes.openvino import find_left_out
from mpsearch.schemes import Spec, find_scheme, parse_sparsity
from tests.support.stored import stored_size

Array = NDArray[np.float32]

ACTIVATIONS = [
    "fp16",
    "bf16",
    "fp8",
    "fp8_dynamic",
    "fp8_block",
    "int8",
    "int8_dynamic",
    "nvfp4",
    "mxfp4",
    "mxfp8",
    "mxfp8_e5m2",
    "fp4",
]
WEIGHTS = [
    "fp16",
    "bf16",
    "fp8",
    "fp8_tensor",
    "fp8_block",
    "int8",
    "w4a16",
    "w4a16_g64",
    "w4a16_g32",
    "w8a16",
    "nvfp4",
    "nvfp4_four_over_six",
    "nvfp4_mse",
    "mxfp4",
    "mxfp8",
    "mxfp8_e5m2",
    "fp4",
    "fp16_2of4",
    "fp8_2of4",
    "fp8_tensor_4of8",
    "fp8_block_2of4",
    "int8_2of4",
    "nvfp4_4of8",
    "mxfp4_2of4",
    "w4a16_2of4",
]
# shape, reduction axis, channel axes, groups
LAYOUTS = {
    "gemm": ((24, 64), 1, (0,), 1),
    "matmul": ((64, 24), 0, (1,), 1),
    "short": ((6, 20), 1, (0,), 1),
    "conv": ((8, 24, 3, 3), 1, (0,), 1),
    "pointwise": ((8, 32, 1, 1), 1, (0,), 1),
    "depthwise": ((12, 1, 5, 3), 1, (0,), 1),
    "batched": ((3, 20, 8), 1, (0, 2), 1),
    "transposed": ((24, 6, 2, 2), 0, (1,), 2),
    "wide": ((130, 260), 1, (0,), 1),
}


def build(writer: Writer, output: str, x: Array | None, shape: Sequence[int]) -> onnx.ModelProto:
    inputs = [] if x is None else [("x", x.shape)]
    nodes = [*writer.nodes, helper.make_node("Identity", [output], ["y"])]
    graph = helper.make_graph(
        nodes,
        "one tensor",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        writer.tensors,
    )
    functions = [make_function(name, writer.opset) for name in sorted(writer.functions)]
    domains = {"": writer.opset} | {f.domain: 1 for f in functions}
    model = helper.make_model(
        graph,
        functions=functions,
        ir_version=11 if writer.opset == 23 else 12,
        opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()],
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run_reference(model: onnx.ModelProto, x: Array | None) -> Array:
    return ReferenceEvaluator(model).run(None, {} if x is None else {"x": x})[0]


def run_openvino(model: onnx.ModelProto, x: Array | None) -> Array:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    read = core.read_model(inline_local_functions(model).SerializeToString())
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = core.compile_model(read, "CPU", settings)
    return compiled([] if x is None else {"x": x})[compiled.outputs[0]]


def encoded_weight(scheme: str, layout: str) -> tuple[onnx.ModelProto, Array]:
    shape, reduction, channels, groups = LAYOUTS[layout]
    spec, sparsity = find_scheme(scheme).weight, find_scheme(scheme).sparsity
    if sparsity is not None and shape[reduction] // groups % parse_sparsity(sparsity).group:
        pytest.skip("the pattern does not divide the channels")
    weight = torch.from_numpy(np.random.default_rng(3).standard_normal(shape).astype(np.float32))
    weight[..., 0] = 0.0
    axes = {
        "reduction_axis": reduction,
        "channel_axes": channels,
        "groups": groups,
        "sparsity": sparsity,
    }
    writer = Writer("w")
    made = quantize_weight(weight, spec, **axes)
    output = encode_weight(writer, made)
    stored = sum(stored_size(tensor) for tensor in writer.tensors)
    assert stored == made.stored_bytes
    return build(writer, output, None, shape), simulate_weight(weight, spec, **axes).numpy()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", WEIGHTS)
def test_reference_evaluator_reads_every_bit_of_a_weight(scheme: str, layout: str) -> None:
    model, expected = encoded_weight(scheme, layout)
    np.testing.assert_array_equal(run_reference(model, None), expected)


@pytest.mark.parametrize("layout", ["gemm", "short", "conv", "depthwise", "transposed"])
@pytest.mark.parametrize("scheme", WEIGHTS)
def test_openvino_reads_a_weight(scheme: str, layout: str) -> None:
    model, expected = encoded_weight(scheme, layout)
    np.testing.assert_allclose(run_openvino(model, None), expected, rtol=3e-7)


@pytest.mark.parametrize("run", [run_reference, run_openvino])
@pytest.mark.parametrize("shape", [(24, 64), (5, 19), (7, 3, 3, 2), (1, 1)])
@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("kind", ["tensor", "channel", "group", "zero"])
def test_integers_that_onnx_lacks_lie_in_their_own_bits(
    kind: str, bits: int, shape: tuple[int, ...], run: Callable[..., Array]
) -> None:
    more: dict[str, Any] = {"granularity": "group", "block_shape": (1, 16), "scale_format": "fp16"}
    if kind in ("tensor", "channel"):
        more = {"granularity": kind, "symmetric": kind == "channel"}
    spec = Spec(f"int{bits}", **more, **({"symmetric": False} if kind == "zero" else {}))
    weight = torch.from_numpy(np.random.default_rng(bits).standard_normal(shape).astype(np.float32))
    axes: dict[str, Any] = {"reduction_axis": 1, "channel_axes": (0,), "groups": 1}
    writer = Writer("w")
    made = quantize_weight(weight, spec, **axes)
    output = encode_weight(writer, made)
    assert sum(map(stored_size, writer.tensors)) == made.stored_bytes
    found = run(build(writer, output, None, shape), None)
    np.testing.assert_allclose(found, simulate_weight(weight, spec, **axes).numpy(), rtol=3e-7)


@pytest.mark.parametrize("spec", [find_scheme("mxfp6").weight, find_scheme("tf32").weight])
def test_types_that_onnx_lacks_are_refused_by_name(spec: Spec) -> None:
    with pytest.raises(PlanError, match=f"ONNX must have a type for {spec.format}"):
        encode_activation(Writer("x"), Activation("x", 2, 1, 8), spec, None)


def encoded_activation(
    scheme: str, shape: tuple[int, ...], axis: int, groups: int
) -> tuple[onnx.ModelProto, Array, Array]:
    spec = find_scheme(scheme).activation
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    x[0] *= 1e-3
    x[-1] = 0.0
    found = make_range(-2.0, 1.5, spec) if scheme != "fp4" else None
    if scheme == "fp4":
        found = make_range(-2.0, 1.5, Spec("e2m1", scale_format="e8m0"))
    expected = quantize_activation(
        torch.from_numpy(x), spec, reduction_axis=axis, groups=groups, range=found
    )
    writer = Writer("a")
    activation = Activation("x", len(shape), axis, shape[axis], groups)
    output = encode_activation(writer, activation, spec, found)
    return build(writer, output, x, shape), x, expected.numpy()


SHAPES = [
    ((3, 5, 64), 2, 1),
    ((3, 20), 1, 1),
    ((3, 40, 5), 1, 1),
    ((3, 32, 4, 5), 1, 2),
    ((3, 12, 4, 5), 1, 3),
    ((3, 4, 20, 6), 2, 1),
    ((3, 140, 2), 1, 1),
]


@pytest.mark.parametrize(("shape", "axis", "groups"), SHAPES)
@pytest.mark.parametrize("scheme", ACTIVATIONS)
def test_reference_evaluator_rounds_activations_as_the_simulation(
    scheme: str, shape: tuple[int, ...], axis: int, groups: int
) -> None:
    model, x, expected = encoded_activation(scheme, shape, axis, groups)
    np.testing.assert_array_equal(run_reference(model, x), expected)


@pytest.mark.parametrize(("shape", "axis", "groups"), SHAPES)
@pytest.mark.parametrize("scheme", ACTIVATIONS)
def test_openvino_rounds_activations_within_its_documented_double_rounding(
    scheme: str, shape: tuple[int, ...], axis: int, groups: int
) -> None:
    model, x, expected = encoded_activation(scheme, shape, axis, groups)
    got = run_openvino(model, x)
    assert np.isfinite(got).all()
    if scheme in find_left_out():
        np.testing.assert_array_equal(got, x)
        return
    differs = ~np.isclose(got, expected, rtol=1e-3, atol=1e-7)
    # f32 goes to f8 through f16, and scales are multiplied by reciprocals: ties may fall the other way.
    assert differs.mean() < 0.02
