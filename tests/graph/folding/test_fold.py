"""What folding leaves computes what the file computes, at any batch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mpsearch.graph.importer import import_onnx
from tests.support.graph_models import assert_same_outputs, integers, model, noise, save, tensor

node = helper.make_node


def ops(graph: object) -> list[str]:
    return [n.op_type for n in graph.nodes]  # type: ignore[attr-defined]


@pytest.fixture
def convolutional() -> onnx.ModelProto:
    """Conv, BatchNormalization, ConvTranspose, BatchNormalization, and a flattened Gemm."""

    def norm(name: str, channels: int) -> list[onnx.TensorProto]:
        variance = np.linspace(0.5, 2.0, channels, dtype=np.float32)
        return [
            tensor(f"{name}.gamma", channels),
            tensor(f"{name}.beta", channels),
            tensor(f"{name}.mean", channels),
            numpy_helper.from_array(variance, f"{name}.var"),
        ]

    bn1 = ["bn1.gamma", "bn1.beta", "bn1.mean", "bn1.var"]
    bn2 = ["bn2.gamma", "bn2.beta", "bn2.mean", "bn2.var"]
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="conv", pads=[1, 1, 1, 1], group=2),
        node("BatchNormalization", ["c1", *bn1], ["n1"], epsilon=1e-3),
        node("Relu", ["n1"], ["r1"]),
        node("ConvTranspose", ["r1", "w2"], ["c2"], name="up", strides=[2, 2], group=2),
        node("BatchNormalization", ["c2", *bn2], ["n2"]),
        node("Shape", ["n2"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        node("Unsqueeze", ["batch", "axes"], ["batch1"]),
        node("Concat", ["batch1", "minus"], ["target"], axis=0),
        node("Reshape", ["n2", "target"], ["flat"]),
        node("Gemm", ["flat", "w3", "b3"], ["y"], name="head", transB=1),
    ]
    tensors = [
        tensor("w1", 8, 2, 3, 3),
        tensor("b1", 8),
        *norm("bn1", 8),
        tensor("w2", 8, 3, 2, 2),
        *norm("bn2", 6),
        integers("zero", 0),
        integers("axes", [0]),
        integers("minus", [-1]),
        tensor("w3", 5, 6 * 12 * 8),
        tensor("b3", 5),
    ]
    return model(nodes, {"x": ["n", 4, 6, 4]}, ["y"], tensors)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_folded_model_equals_the_original_at_any_batch(
    convolutional: onnx.ModelProto, tmp_path: Path, batch: int
) -> None:
    graph = import_onnx(save(convolutional, tmp_path))
    assert graph.batch == 1
    assert_same_outputs(convolutional, graph, {"x": noise(batch, 4, 6, 4)})


def test_normalisations_and_shape_arithmetic_vanish(
    convolutional: onnx.ModelProto, tmp_path: Path
) -> None:
    graph = import_onnx(save(convolutional, tmp_path))
    assert ops(graph) == ["Conv", "Relu", "ConvTranspose", "Reshape", "Gemm"]
    conv = graph.nodes[0]
    assert (conv.name, conv.outputs) == ("conv", ("n1",))


def test_folded_weights_are_traced_to_the_users_tensors(
    convolutional: onnx.ModelProto, tmp_path: Path
) -> None:
    graph = import_onnx(save(convolutional, tmp_path))
    assert [layer.gemms[0].right.source for layer in graph.layers] == ["w1", "w2", "w3"]
    assert all(layer.gemms[0].right.value in graph.constants for layer in graph.layers)


def test_batchnorm_after_a_shared_weight_stays(tmp_path: Path) -> None:
    stats = ["gamma", "beta", "mean", "var"]
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", *stats], ["b"]),
        node("Conv", ["b", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    var = numpy_helper.from_array(np.full(4, 0.7, np.float32), "var")
    tensors = [tensor("w", 4, 4, 3, 3), *(tensor(name, 4) for name in stats[:3]), var]
    proto = model(nodes, {"x": ["n", 4, 5, 5]}, ["y"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert ops(graph) == ["Conv", "BatchNormalization", "Conv"]
    assert_same_outputs(proto, graph, {"x": noise(2, 4, 5, 5)})
    assert [group.reason for group in graph.groups] == ["shared weight"]


def test_batchnorm_whose_input_is_an_output_stays(tmp_path: Path) -> None:
    stats = ["gamma", "beta", "mean", "var"]
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", *stats], ["y"]),
    ]
    var = numpy_helper.from_array(np.full(4, 0.7, np.float32), "var")
    tensors = [tensor("w", 4, 4, 1, 1), *(tensor(name, 4) for name in stats[:3]), var]
    proto = model(nodes, {"x": ["n", 4, 5, 5]}, ["y", "a"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert ops(graph) == ["Conv", "BatchNormalization"]
    assert_same_outputs(proto, graph, {"x": noise(2, 4, 5, 5)})


def test_gemm_then_batchnorm_is_one_gemm(tmp_path: Path) -> None:
    stats = ["gamma", "beta", "mean", "var"]
    nodes = [
        node("Gemm", ["x", "w"], ["a"], name="fc"),
        node("BatchNormalization", ["a", *stats], ["y"]),
    ]
    var = numpy_helper.from_array(np.full(3, 0.7, np.float32), "var")
    tensors = [tensor("w", 6, 3), *(tensor(name, 3) for name in stats[:3]), var]
    proto = model(nodes, {"x": ["n", 6]}, ["y"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert ops(graph) == ["Gemm"]
    assert_same_outputs(proto, graph, {"x": noise(4, 6)})


def chain(first: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes that lead from ``first`` [1, 12, 8] to a weight [8, 6] named ``w``."""
    nodes = [
        node("Identity", [first], ["i"]),
        node("Slice", ["i", "starts", "ends", "axes"], ["s"]),
        node("Squeeze", ["s", "axis0"], ["q"]),
        node("Transpose", ["q"], ["t"], perm=[1, 0]),
        node("Reshape", ["t", "size"], ["r"]),
        node("Cast", ["r"], ["d"], to=onnx.TensorProto.DOUBLE),
        node("Cast", ["d"], ["w"], to=onnx.TensorProto.FLOAT),
    ]
    tensors = [
        integers("starts", [2]),
        integers("ends", [8]),
        integers("axes", [1]),
        integers("axis0", [0]),
        integers("size", [8, -1]),
    ]
    return nodes, tensors


@pytest.mark.parametrize("where", ["initialiser", "constant"])
def test_chains_in_front_of_a_weight_fold_and_keep_its_name(tmp_path: Path, where: str) -> None:
    nodes, tensors = chain("stored")
    stored = tensor("stored", 1, 12, 8)
    if where == "constant":
        nodes.insert(0, node("Constant", [], ["stored"], value=stored))
    else:
        tensors.append(stored)
    nodes.append(node("MatMul", ["x", "w"], ["y"], name="fc"))
    proto = model(nodes, {"x": ["n", 7, 8]}, ["y"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert ops(graph) == ["MatMul"]
    (gemm,) = graph.layers[0].gemms
    assert (gemm.m, gemm.n, gemm.k, gemm.right.source) == (7, 6, 8, "stored")
    expected = numpy_helper.to_array(stored)[0, 2:8].T
    np.testing.assert_array_equal(graph.constants[gemm.right.value], expected)
    assert_same_outputs(proto, graph, {"x": noise(3, 7, 8)})


def test_a_batch_taken_from_the_shape_is_never_frozen(tmp_path: Path) -> None:
    """Multi-head reshapes as exporters write them: [Shape[0], Shape[1], heads, width]."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero1", "two"], ["lead"]),
        node("Concat", ["lead", "heads"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["h"]),
        node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
        node("Gather", ["s", "zero"], ["b"]),
        node("Mul", ["b", "four"], ["b4"]),
        node("Unsqueeze", ["b4", "zero1"], ["b4u"]),
        node("Concat", ["b4u", "rest"], ["flat"], axis=0),
        node("Reshape", ["t", "flat"], ["f"]),
        node("ConstantOfShape", ["b4u"], ["ones"], value=helper.make_tensor("v", 1, [1], [1.0])),
        node("ReduceSum", ["ones"], ["count"], keepdims=0),
        node("Mul", ["f", "count"], ["y"]),
    ]
    tensors = [
        integers("zero1", [0]),
        integers("two", [2]),
        integers("heads", [4, 2]),
        integers("zero", 0),
        integers("four", 4),
        integers("rest", [6, 2]),
    ]
    proto = model(nodes, {"x": ["n", 6, 8]}, ["y"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    for batch in (1, 2, 3):
        assert_same_outputs(proto, graph, {"x": noise(batch, 6, 8)})


def test_unbound_axes_stay_free(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["length"]),
        node("Greater", ["length", "one"], ["many"]),
        node("Cast", ["many"], ["scale"], to=1),
        node("MatMul", ["x", "w"], ["h"], name="fc"),
        node("Mul", ["h", "scale"], ["y"]),
    ]
    proto = model(nodes, {"x": ["n", "len", 8]}, ["y"], [integers("one", 1), tensor("w", 8, 3)])
    graph = import_onnx(save(proto, tmp_path))
    assert graph.unbound == ("x[1]",)
    assert (graph.layers[0].m, graph.layers[0].n, graph.layers[0].k) == (0, 3, 8)
    assert graph.values["h"].shape == (1, None, 3)
    for length in (1, 5):  # a length of 1 takes the other side of the comparison
        assert_same_outputs(proto, graph, {"x": noise(2, length, 8)})


def test_bound_axes_settle_shape_arithmetic(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["length"]),
        node("Cast", ["length"], ["scale"], to=1),
        node("MatMul", ["x", "w"], ["h"], name="fc"),
        node("Div", ["h", "scale"], ["y"]),
    ]
    proto = model(nodes, {"x": ["n", "len", 8]}, ["y"], [integers("one", 1), tensor("w", 8, 3)])
    graph = import_onnx(save(proto, tmp_path), shapes={"x": (2, 5, 8)})
    assert ops(graph) == ["MatMul", "Div"]
    assert (graph.batch, graph.layers[0].m) == (2, 10)
    assert graph.inputs[0].shape == (None, 5, 8)
    assert_same_outputs(proto, graph, {"x": noise(3, 5, 8)})


def test_a_batch_that_the_model_froze_is_fixed(tmp_path: Path) -> None:
    """The input says n, but a Reshape insists on 1: nothing else runs, so nothing else is claimed."""
    nodes = [
        node("Reshape", ["x", "target"], ["r"]),
        node("MatMul", ["r", "w"], ["y"], name="fc"),
    ]
    tensors = [integers("target", [1, 4, 2]), tensor("w", 2, 3)]
    proto = model(nodes, {"x": ["n", 8]}, ["y"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert graph.inputs[0].shape == (1, 8)
    assert graph.layers[0].m == 4
    assert_same_outputs(proto, graph, {"x": noise(1, 8)})


def test_an_output_that_is_constant_stays_an_output(tmp_path: Path) -> None:
    nodes = [node("Add", ["a", "b"], ["c"]), node("Relu", ["x"], ["y"])]
    proto = model(nodes, {"x": ["n", 2]}, ["y", "c"], [tensor("a", 2), tensor("b", 2)])
    graph = import_onnx(save(proto, tmp_path))
    assert_same_outputs(proto, graph, {"x": noise(2, 2)})


def test_identities_and_dropout_go(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Dropout", ["a"], ["b"]),
        node("Identity", ["b"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("Identity", ["d"], ["y"]),
    ]
    proto = model(nodes, {"x": ["n", 2]}, ["y"])
    graph = import_onnx(save(proto, tmp_path))
    assert ops(graph) == ["Relu", "Identity"]
    assert graph.nodes[0].inputs == ("x",)
    assert_same_outputs(proto, graph, {"x": noise(2, 2)})


def test_random_numbers_are_not_folded(tmp_path: Path) -> None:
    nodes = [
        node("RandomNormalLike", ["w"], ["r"]),
        node("Add", ["x", "r"], ["y"]),
    ]
    proto = model(nodes, {"x": ["n", 4]}, ["y"], [tensor("w", 4)])
    assert ops(import_onnx(save(proto, tmp_path))) == ["RandomNormalLike", "Add"]


def test_nodes_in_any_order_are_sorted(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["b"], ["y"], name="third"),
        node("Neg", ["x"], ["a"], name="first"),
        node("Exp", ["a"], ["b"], name="second"),
    ]
    graph = import_onnx(save(model(nodes, {"x": ["n", 4]}, ["y"]), tmp_path))
    assert [n.name for n in graph.nodes] == ["first", "second", "third"]


def test_unnamed_and_equally_named_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("Exp", ["a"], ["b"], name="same"),
        node("Relu", ["b"], ["y"], name="same"),
    ]
    graph = import_onnx(save(model(nodes, {"x": ["n", 4]}, ["y"]), tmp_path))
    assert [n.name for n in graph.nodes] == ["a", "same", "y"]


def test_quantised_weights_and_activations_fold_back_with_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    packed = numpy_helper.from_array(rng.integers(-127, 128, (8, 3)).astype(np.int8), "packed")
    scales = numpy_helper.from_array(np.array([0.1, 0.2, 0.3], np.float32), "scales")
    zeros = numpy_helper.from_array(np.zeros(3, np.int8), "zeros")
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["packed", "scales", "zeros"], ["w"], axis=1),
        node("MatMul", ["xd", "w"], ["y"], name="fc"),
    ]
    step = numpy_helper.from_array(np.array(0.05, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    proto = model(nodes, {"x": ["n", 8]}, ["y"], [packed, scales, zeros, step, zero])
    with pytest.warns(UserWarning, match="already quantised: 1 pairs"):
        graph = import_onnx(save(proto, tmp_path))
    assert ops(graph) == ["MatMul"]
    (gemm,) = graph.layers[0].gemms
    assert (gemm.right.source, gemm.left.value) == ("packed", "x")
    expected = numpy_helper.to_array(packed) * np.array([0.1, 0.2, 0.3], np.float32)
    np.testing.assert_allclose(graph.constants[gemm.right.value], expected, rtol=1e-6)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21, 23, 25])
def test_opsets_from_seven_to_twenty_five_come_in(tmp_path: Path, opset: int) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "v", "b"], ["y"], name="fc"),
    ]
    tensors = [tensor("w", 4, 3, 3, 3), tensor("v", 4, 2), tensor("b", 2)]
    proto = model(nodes, {"x": ["n", 3, 6, 6]}, ["y"], tensors, opset=opset)
    graph = import_onnx(save(proto, tmp_path))
    assert graph.opset == opset
    assert {n.version for n in graph.nodes} == {opset}
    assert [(layer.m, layer.n, layer.k) for layer in graph.layers] == [(16, 4, 27), (1, 2, 4)]
    assert_same_outputs(proto, graph, {"x": noise(2, 3, 6, 6)})


def test_sizes_that_are_sums_of_others(tmp_path: Path) -> None:
    """A decoder step: the mask is as long as the cache and the new tokens together."""
    nodes = [
        node("MatMul", ["x", "wk"], ["k"], name="key"),
        node("Concat", ["past", "k"], ["all"], axis=1),
        node("Transpose", ["all"], ["allt"], perm=[0, 2, 1]),
        node("MatMul", ["x", "allt"], ["s"], name="scores"),
        node("Add", ["s", "mask"], ["sm"]),
        node("Softmax", ["sm"], ["p"]),
        node("MatMul", ["p", "all"], ["c"], name="values"),
        node("MatMul", ["c", "wo"], ["y"], name="out"),
    ]
    inputs = {
        "x": ["batch", "new", 8],
        "past": ["batch", "past", 8],
        "mask": ["batch", 1, "past + new"],
    }
    proto = model(nodes, inputs, ["y", "all"], [tensor("wk", 8, 8), tensor("wo", 8, 8)])
    graph = import_onnx(save(proto, tmp_path))
    assert graph.unbound == ("x[1]", "past[1]", "mask[2]")
    assert [layer.role for layer in graph.layers] == [
        "attention.kv",
        "attention.scores",
        "attention.values",
        "attention.out",
    ]
    assert graph.values["y"].shape == (1, None, 8)
    shapes = {"x": (1, 2, 8), "past": (1, 5, 8)}
    bound = import_onnx(save(proto, tmp_path), shapes=shapes)
    assert bound.unbound == ()
    assert [(la.m, la.n, la.k) for la in bound.layers] == [
        (2, 8, 8),
        (2, 7, 8),
        (2, 8, 7),
        (2, 8, 8),
    ]
    feeds = {"x": noise(3, 2, 8), "past": noise(3, 5, 8), "mask": noise(3, 1, 7)}
    assert_same_outputs(proto, bound, feeds)
    assert_same_outputs(proto, graph, feeds)


@pytest.mark.parametrize("opset", [10, 13])
def test_what_an_unsigned_quantiser_cuts_off_stays_cut_off(opset: int, tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="fc"),
        node("QuantizeLinear", ["h", "s", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "s", "zero"], ["d"]),
        node("MatMul", ["d", "v"], ["y"], name="last"),
    ]
    scale = numpy_helper.from_array(np.float32(0.02), "s")
    zero = numpy_helper.from_array(np.uint8(0), "zero")
    proto = model(
        nodes, {"x": ["n", 4]}, ["y"], [tensor("w", 4, 6), tensor("v", 6, 2), scale, zero],
        opset=opset,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="1 pairs of QuantizeLinear"):
        graph = import_onnx(save(proto, tmp_path))
    assert ops(graph) == ["MatMul", "Clip", "MatMul"]
    assert_same_outputs(proto, graph, {"x": noise(8, 4)}, tolerance=0.05)
