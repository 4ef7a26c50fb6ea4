"""A single-kernel model runs on the kernel that it stands for, with default optimisations."""

from pathlib import Path

import onnx
import pytest

from mpsearch.cost.executed.kernel_shapes import KernelShape, find_kernel_shapes
from mpsearch.profile.kernel_models import float_kernel, integer_kernel, rounding_pair
from mpsearch.profile.onnxruntime import find_shares
from tests.support.integer_models import INTEGER_KERNELS, branching_net
from tests.support.torch_models import imported

PADDED = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)))
SHAPES = {
    "conv": KernelShape("Conv", (1, 16, 8, 8), (24, 16, 3, 3), True, PADDED, True, True),
    "depthwise": KernelShape("Conv", (1, 16, 8, 8), (16, 1, 3, 3), True, (("group", 16), *PADDED)),
    "matmul": KernelShape("MatMul", (2, 8, 32), (32, 16), has_bias=True),
    "free": KernelShape("MatMul", (2, 8, 32), (32, 16), has_bias=True, has_relu=True, is_free=True),
    "gemm": KernelShape("Gemm", (8, 32), (16, 32), True, (("transB", 1),), True, True),
    "attention": KernelShape("MatMul", (2, 4, 8, 16), (2, 4, 16, 8), has_weight=False),
}


@pytest.mark.parametrize("name", SHAPES)
def test_kernels_run_as_what_they_stand_for(name: str) -> None:
    made = float_kernel(SHAPES[name])
    seen = {op for op, _, _ in find_shares(made.model, made.feeds, runs=2)}
    assert not seen & INTEGER_KERNELS
    made = integer_kernel(SHAPES[name])
    shares = find_shares(made.model, made.feeds, runs=2)
    seen = {op for op, _, _ in shares}
    assert seen & INTEGER_KERNELS
    assert not seen & {"Conv", "FusedConv", "MatMul", "Gemm", "FusedGemm", "FusedMatMul"}
    assert sum(share for _, _, share in shares) == pytest.approx(1.0)


def test_a_rounding_pair_is_a_rounding_and_the_way_back() -> None:
    made = rounding_pair((1, 16, 8, 8))
    seen = [op for op, _, _ in find_shares(made.model, made.feeds, runs=2)]
    assert seen == ["QuantizeLinear", "DequantizeLinear", "Clip"]


def test_kernels_are_told_apart_by_shapes_attributes_and_what_is_fused(tmp_path: Path) -> None:
    shapes = find_kernel_shapes(imported(branching_net(), tmp_path))
    keys = [shape.key for shape in shapes if shape]
    assert len(set(keys)) == len(keys) == 9
    assert keys[0] == "Conv 1x3x8x8 16x3x3x3 pads=1,1,1,1 bias relu free"
    assert keys[-2] == "MatMul 1x32 32x5 bias free"


def test_two_layers_of_one_shape_are_one_kernel(tmp_path: Path) -> None:
    model = branching_net()
    twin = onnx.helper.make_node("MatMul", ["rg", "w7"], ["h2"], "twin")
    model.graph.node.append(twin)
    add = onnx.helper.make_node("Add", ["h2", "b7"], ["z2"], "bias2")
    model.graph.node.append(add)
    model.graph.output.append(onnx.helper.make_tensor_value_info("z2", 1, ["n", 5]))
    shapes = find_kernel_shapes(imported(model, tmp_path))
    keys = [shape.key for shape in shapes if shape and shape.op_type == "MatMul"]
    assert len(keys) == 2
    assert keys[0] == keys[1]
