"""M, N, K of each layer against sizes worked out by hand, and FLOPs against the definition."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import Gemm, Layer, ModelGraph
from tests.support.graph_models import integers, model, save, tensor

node = helper.make_node


def imported(tmp_path: Path, *arguments: object, **options: object) -> ModelGraph:
    return import_onnx(save(model(*arguments, **options), tmp_path))  # type: ignore[arg-type]


def only(graph: ModelGraph) -> Layer:
    (layer,) = graph.layers
    return layer


def mnk(gemm: Gemm) -> tuple[int, int, int, int]:
    return gemm.m, gemm.n, gemm.k, gemm.calls


@pytest.mark.parametrize(
    ("weight", "x", "attributes", "expected"),
    [
        # 8 filters of 3×3 over 4 channels, stride 2 and padding 1: 9×9 -> 5×5 positions
        ((8, 4, 3, 3), (4, 9, 9), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, (25, 8, 36, 9, 1)),
        # depthwise: K is the kernel of one channel
        ((6, 1, 3, 3), (6, 7, 7), {"group": 6}, (25, 6, 9, 9, 6)),
        # two groups
        ((6, 2, 1, 1), (4, 5, 5), {"group": 2}, (25, 6, 2, 1, 2)),
        # one dimension, dilated: 20 - 2·(3-1) = 16
        ((5, 4, 3), (4, 20), {"dilations": [2]}, (16, 5, 12, 3, 1)),
        # three dimensions
        ((2, 3, 2, 2, 2), (3, 4, 4, 4), {}, (27, 2, 24, 8, 1)),
    ],
)
def test_convolutions(
    tmp_path: Path,
    weight: tuple[int, ...],
    x: tuple[int, ...],
    attributes: dict[str, object],
    expected: tuple[int, ...],
) -> None:
    conv = node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    layer = only(imported(tmp_path, [conv], {"x": ["n", *x]}, ["y"], [tensor("w", *weight)]))
    (gemm,) = layer.gemms
    assert (gemm.m, gemm.n, gemm.k, gemm.positions, gemm.groups) == expected
    assert gemm.parameters == np.prod(weight)
    assert (gemm.left.reduction_axis, gemm.left.groups) == (1, gemm.groups)
    assert (gemm.right.reduction_axis, gemm.right.channel_axes) == (1, (0,))
    assert gemm.batch_in_m
    assert layer.flops == 2 * expected[0] * expected[1] * expected[2]
    assert layer.input_elements == np.prod(x)
    assert layer.output_elements == expected[0] * expected[1]


def test_transposed_convolution_counts_every_multiplication(tmp_path: Path) -> None:
    """6 inputs to 2·3 outputs in 2 groups, 2×2 kernel: each of 20 positions meets 6·3·4 weights."""
    conv = node("ConvTranspose", ["x", "w"], ["y"], group=2, strides=[2, 2])
    layer = only(
        imported(tmp_path, [conv], {"x": ["n", 6, 4, 5]}, ["y"], [tensor("w", 6, 3, 2, 2)])
    )
    (gemm,) = layer.gemms
    assert (gemm.m, gemm.n, gemm.k, gemm.positions, gemm.groups) == (20, 6, 12, 4, 2)
    assert gemm.parameters == 6 * 3 * 2 * 2
    assert layer.flops == 2 * 20 * 6 * 3 * 4
    assert (gemm.right.reduction_axis, gemm.right.channel_axes, gemm.right.groups) == (0, (1,), 2)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(tmp_path: Path, trans_a: int, trans_b: int) -> None:
    gemm_node = node("Gemm", ["x", "w"], ["y"], transA=trans_a, transB=trans_b)
    x = [8, 5] if trans_a else [5, 8]
    w = (3, 8) if trans_b else (8, 3)
    (gemm,) = only(imported(tmp_path, [gemm_node], {"x": x}, ["y"], [tensor("w", *w)])).gemms
    assert mnk(gemm) == (5, 3, 8, 1)
    assert x[gemm.left.reduction_axis] == 8
    assert w[gemm.right.reduction_axis] == 8
    assert [w[axis] for axis in gemm.right.channel_axes] == [3]


@pytest.mark.parametrize(
    ("x", "w", "expected"),
    [
        (["n", 7, 8], (8, 3), (7, 3, 8, 1)),
        (["n", 2, 7, 8], (8, 3), (14, 3, 8, 1)),
        (["n", 8], (8, 3), (1, 3, 8, 1)),
        (["n", 7, 8], (8,), (7, 1, 8, 1)),
        # a stack of four weights: its channels count together
        (["n", 4, 7, 8], (4, 8, 3), (7, 12, 8, 1)),
        # one activation against a stack of four
        ([7, 8], (4, 8, 3), (7, 12, 8, 1)),
    ],
)
def test_matmul_with_a_weight(
    tmp_path: Path, x: list[object], w: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    layer = only(
        imported(tmp_path, [node("MatMul", ["x", "w"], ["y"])], {"x": x}, ["y"], [tensor("w", *w)])
    )
    (gemm,) = layer.gemms
    assert mnk(gemm) == expected
    assert gemm.parameters == np.prod(w)
    assert gemm.batch_in_m
    assert layer.flops == 2 * layer.output_elements * 8


def test_a_weight_on_the_left_is_still_the_weight(tmp_path: Path) -> None:
    layer = only(
        imported(
            tmp_path,
            [node("MatMul", ["w", "x"], ["y"])],
            {"x": ["n", 8, 5]},
            ["y"],
            [tensor("w", 3, 8)],
        )
    )
    (gemm,) = layer.gemms
    assert mnk(gemm) == (5, 3, 8, 1)
    assert (gemm.left.value, gemm.left.input_index, gemm.left.reduction_axis) == ("x", 1, -2)
    assert (gemm.right.source, gemm.right.input_index, gemm.right.reduction_axis) == ("w", 0, 1)
    assert gemm.right.channel_axes == (0,)


def test_product_of_two_activations(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["x", "t"], ["y"], name="scores"),
    ]
    graph = imported(tmp_path, nodes, {"x": ["n", 4, 6, 8]}, ["y"])
    (gemm,) = only(graph).gemms
    assert mnk(gemm) == (6, 6, 8, 4)
    assert not gemm.has_weight
    assert not gemm.batch_in_m
    assert gemm.parameters == 0
    assert (gemm.left.reduction_axis, gemm.right.reduction_axis) == (-1, -2)
    assert gemm.flops == 2 * 6 * 6 * 8 * 4


def test_einsum(tmp_path: Path) -> None:
    nodes = [
        node("Einsum", ["x", "w"], ["h"], name="project", equation="btd,dhk->bthk"),
        node("Einsum", ["h", "h"], ["s"], name="scores", equation="bqhk,bthk->bhqt"),
    ]
    graph = imported(tmp_path, nodes, {"x": ["n", 5, 16]}, ["s"], [tensor("w", 16, 4, 8)])
    project, scores = (layer.gemms[0] for layer in graph.layers)
    assert mnk(project) == (5, 32, 16, 1)
    assert project.right.channel_axes == (1, 2)
    assert project.has_weight
    assert project.batch_in_m
    assert mnk(scores) == (5, 5, 8, 4)
    assert not scores.has_weight
    assert not scores.batch_in_m


def test_einsum_that_reduces_two_axes(tmp_path: Path) -> None:
    nodes = [node("Einsum", ["x", "w"], ["y"], equation="bthk,hkd->btd")]
    (gemm,) = only(
        imported(tmp_path, nodes, {"x": ["n", 5, 4, 8]}, ["y"], [tensor("w", 4, 8, 6)])
    ).gemms
    assert mnk(gemm) == (5, 6, 32, 1)
    assert (gemm.positions, gemm.left.reduction_axis, gemm.right.reduction_axis) == (4, 3, 1)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_have_two_products(tmp_path: Path, op: str, gates: int) -> None:
    hidden, width, steps = 5, 7, 9
    nodes = [
        node(op, ["x", "w", "r"], ["y"], name="rnn", hidden_size=hidden, direction="bidirectional")
    ]
    tensors = [tensor("w", 2, gates * hidden, width), tensor("r", 2, gates * hidden, hidden)]
    graph = imported(tmp_path, nodes, {"x": [steps, 3, width]}, ["y"], tensors)
    given, recurrent = only(graph).gemms
    assert mnk(given) == (steps * 3, 2 * gates * hidden, width, 1)
    assert mnk(recurrent) == (3, 2 * gates * hidden, hidden, steps)
    assert (given.right.source, recurrent.right.source) == ("w", "r")
    assert (given.right.reduction_axis, given.right.channel_axes) == (2, (0, 1))
    assert recurrent.left.value == ""


def test_attention_operator(tmp_path: Path) -> None:
    nodes = [node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=4)]
    graph = imported(
        tmp_path, nodes, {"q": ["n", 5, 32], "k": ["n", 7, 32], "v": ["n", 7, 32]}, ["y"], opset=23
    )
    scores, values = only(graph).gemms
    assert mnk(scores) == (5, 7, 8, 4)
    assert mnk(values) == (5, 8, 7, 4)
    assert not scores.batch_in_m


def test_a_loop_counts_its_calls(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            node("MatMul", ["h", "w"], ["h2"], name="step"),
            node("Identity", ["go"], ["go2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go2", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("h2", onnx.TensorProto.FLOAT, None),
        ],
    )
    nodes = [node("Loop", ["trips", "", "x"], ["y"], name="loop", body=body)]
    graph = imported(
        tmp_path, nodes, {"x": ["n", 4]}, ["y"], [integers("trips", 6), tensor("w", 4, 4)]
    )
    layer = only(graph)
    assert layer.name == "loop/body/step"
    assert mnk(layer.gemms[0]) == (1, 4, 4, 6)


def test_integer_products_are_no_layers(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    types = {"x": onnx.TensorProto.INT64, "y": onnx.TensorProto.INT64}
    graph = imported(
        tmp_path, nodes, {"x": ["n", 4]}, ["y"], [integers("w", np.ones((4, 4)))], types=types
    )
    assert graph.layers == ()
