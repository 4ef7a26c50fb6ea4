"""Edges, groups and coverage."""

from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from tests.support.graph_models import integers, model, save, tensor

node = helper.make_node


def imported(tmp_path: Path, *arguments: object, **options: object) -> ModelGraph:
    return import_onnx(save(model(*arguments, **options), tmp_path))  # type: ignore[arg-type]


def edges(graph: ModelGraph) -> list[tuple[str, str]]:
    return [(graph.layers[e.source].name, graph.layers[e.target].name) for e in graph.edges]


def groups(graph: ModelGraph) -> list[tuple[list[str], str]]:
    return [([graph.layers[i].name for i in g.layers], g.reason) for g in graph.groups]


def attention_block(prefix: str, x: str) -> list[object]:
    """Return the nodes of one attention over ``x`` [n, 6, 8] with a residual."""
    q, k, v, s, p, o = (f"{prefix}{name}" for name in "qkvspo")
    return [
        node("MatMul", [x, f"{prefix}wq"], [q], name=q),
        node("MatMul", [x, f"{prefix}wk"], [k], name=k),
        node("MatMul", [x, f"{prefix}wv"], [v], name=v),
        node("Transpose", [k], [f"{k}t"], perm=[0, 2, 1]),
        node("MatMul", [q, f"{k}t"], [s], name=s),
        node("Softmax", [s], [p]),
        node("MatMul", [p, v], [f"{prefix}c"], name=f"{prefix}c"),
        node("MatMul", [f"{prefix}c", f"{prefix}wo"], [o], name=o),
        node("Add", [x, o], [f"{prefix}y"]),
    ]


def attention_weights(prefix: str) -> list[object]:
    return [tensor(f"{prefix}w{name}", 8, 8) for name in "qkvo"]


def test_edges_cross_operators_that_are_no_layers_and_stop_at_layers(tmp_path: Path) -> None:
    nodes = [*attention_block("a.", "x"), node("MatMul", ["a.y", "w"], ["y"], name="fc")]
    graph = imported(
        tmp_path, nodes, {"x": ["n", 6, 8]}, ["y"], [*attention_weights("a."), tensor("w", 8, 3)]
    )
    assert edges(graph) == [
        ("a.q", "a.s"),
        ("a.k", "a.s"),
        ("a.v", "a.c"),
        ("a.s", "a.c"),
        ("a.c", "a.o"),
        ("a.o", "fc"),
    ]
    assert all(
        edge.elements == 48 for edge in graph.edges if graph.layers[edge.target].name == "fc"
    )


def test_shapes_carry_no_data(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="a"),
        node("Shape", ["a"], ["s"]),
        node("Cast", ["s"], ["f"], to=1),
        node("ReduceSum", ["f"], ["r"]),
        node("Mul", ["z", "r"], ["zr"]),
        node("MatMul", ["zr", "w"], ["b"], name="b"),
    ]
    graph = imported(
        tmp_path, nodes, {"x": ["n", "t", 4], "z": ["n", "t", 4]}, ["a", "b"], [tensor("w", 4, 4)]
    )
    assert edges(graph) == []


def test_projections_of_one_tensor_form_a_group(tmp_path: Path) -> None:
    graph = imported(
        tmp_path, attention_block("", "x"), {"x": ["n", 6, 8]}, ["y"], attention_weights("")
    )
    assert groups(graph) == [
        (["q", "k", "v"], "one input"),
        (["s"], "single"),
        (["c"], "single"),
        (["o"], "single"),
    ]


def test_convolutions_of_one_tensor_stay_apart(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="a"),
        node("Conv", ["x", "w2"], ["b"], name="b"),
        node("Add", ["a", "b"], ["y"]),
    ]
    tensors = [tensor("w1", 4, 3, 1, 1), tensor("w2", 4, 3, 1, 1)]
    graph = imported(tmp_path, nodes, {"x": ["n", 3, 5, 5]}, ["y"], tensors)
    assert [g.layers for g in graph.groups] == [(0,), (1,)]


def test_shared_weights_form_a_group_through_other_nodes(tmp_path: Path) -> None:
    """An unrolled recurrence: one weight, three Gemms, one of them behind an Identity."""
    nodes = [
        node("Gemm", ["x", "w"], ["h1"], name="s1"),
        node("Tanh", ["h1"], ["t1"]),
        node("Gemm", ["t1", "w"], ["h2"], name="s2"),
        node("Tanh", ["h2"], ["t2"]),
        node("Identity", ["w"], ["same"]),
        node("Gemm", ["t2", "same"], ["y"], name="s3"),
    ]
    graph = imported(tmp_path, nodes, {"x": ["n", 4]}, ["y"], [tensor("w", 4, 4)])
    assert groups(graph) == [(["s1", "s2", "s3"], "shared weight")]
    assert graph.coverage.parameters == 16


def test_both_reasons_are_named(tmp_path: Path) -> None:
    """Query and key of one attention whose key weight is used once more behind it."""
    nodes = [
        node("MatMul", ["x", "w"], ["q"], name="q"),
        node("MatMul", ["x", "v"], ["k"], name="k"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"], name="s"),
        node("MatMul", ["s", "x"], ["m"], name="m"),
        node("MatMul", ["m", "v"], ["y"], name="o"),
    ]
    tensors = [tensor("w", 4, 4), tensor("v", 4, 4)]
    graph = imported(tmp_path, nodes, {"x": ["n", 6, 4]}, ["y"], tensors)
    assert groups(graph)[0] == (["q", "k", "o"], "shared weight, one input")


def test_heads_that_read_one_tensor_are_decided_apart(tmp_path: Path) -> None:
    nodes = [
        node("Gemm", ["x", "w0"], ["h"], name="trunk"),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "w1"], ["c"], name="classes"),
        node("Softmax", ["c"], ["p"]),
        node("Gemm", ["r", "w2"], ["boxes"], name="boxes"),
    ]
    tensors = [tensor("w0", 8, 16), tensor("w1", 16, 10), tensor("w2", 16, 4)]
    graph = imported(tmp_path, nodes, {"x": ["n", 8]}, ["p", "boxes"], tensors)
    assert [members for members, _ in groups(graph)] == [["trunk"], ["classes"], ["boxes"]]
    assert [layer.role for layer in graph.layers[1:]] == ["head.classification", "head.regression"]


def test_keys_and_values_of_other_blocks_are_decided_apart(tmp_path: Path) -> None:
    """Two decoder layers look at one encoder's output: each fuses its own key and value alone."""
    nodes, tensors, x = [], [], "x"
    for prefix in ("a.", "b."):
        block = attention_block(prefix, x)
        for item in block[1:3]:
            item.input[0] = "memory"  # type: ignore[attr-defined]
        nodes += block
        tensors += attention_weights(prefix)
        x = f"{prefix}y"
    shapes = {"x": ["n", 6, 8], "memory": ["n", 6, 8]}
    graph = imported(tmp_path, nodes, shapes, [x], tensors)
    assert [members for members, _ in groups(graph) if len(members) > 1] == [
        ["a.k", "a.v"],
        ["b.k", "b.v"],
    ]


def test_gate_and_up_form_a_group_and_what_chooses_experts_does_not(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "wr"], ["r"], name="router"), node("Softmax", ["r"], ["p"])]
    tensors = [tensor("wr", 8, 2)]
    for e in "ab":
        nodes += [
            node("MatMul", ["x", f"{e}g"], [f"{e}1"], name=f"{e}.gate"),
            node("MatMul", ["x", f"{e}u"], [f"{e}2"], name=f"{e}.up"),
            node("Sigmoid", [f"{e}1"], [f"{e}3"]),
            node("Mul", [f"{e}1", f"{e}3"], [f"{e}4"]),
            node("Mul", [f"{e}4", f"{e}2"], [f"{e}5"]),
            node("MatMul", [f"{e}5", f"{e}d"], [f"{e}6"], name=f"{e}.down"),
        ]
        tensors += [tensor(f"{e}g", 8, 24), tensor(f"{e}u", 8, 24), tensor(f"{e}d", 24, 8)]
    nodes += [node("Add", ["a6", "b6"], ["y0"]), node("ReduceMax", ["p"], ["top"], keepdims=1)]
    nodes += [node("Mul", ["y0", "top"], ["y"])]
    graph = imported(tmp_path, nodes, {"x": ["n", 8]}, ["y"], tensors)
    assert [members for members, _ in groups(graph) if len(members) > 1] == [
        ["a.gate", "a.up", "b.gate", "b.up"]
    ]


def test_every_layer_is_in_one_group(tmp_path: Path) -> None:
    nodes = [*attention_block("a.", "x"), *attention_block("b.", "a.y")]
    tensors = [*attention_weights("a."), *attention_weights("b.")]
    graph = imported(tmp_path, nodes, {"x": ["n", 6, 8]}, ["b.y"], tensors)
    members = [index for group in graph.groups for index in group.layers]
    assert sorted(members) == list(range(len(graph.layers)))
    assert [g.name for g in graph.groups] == [graph.layers[g.layers[0]].name for g in graph.groups]


def test_coverage_names_what_nobody_decides(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["table", "ids"], ["e"], name="lookup"),
        node("LayerNormalization", ["e", "scale", "shift"], ["n"], axis=-1),
        node("MatMul", ["n", "w"], ["m"], name="fc"),
        node("Add", ["m", "bias"], ["y"]),
    ]
    tensors = [
        tensor("table", 100, 8),
        tensor("scale", 8),
        tensor("shift", 8),
        tensor("w", 8, 4),
        tensor("bias", 4),
    ]
    graph = imported(tmp_path, nodes, {"ids": ["n", 6]}, ["y"], tensors, types={"ids": 7})
    coverage = graph.coverage
    assert (coverage.parameters, coverage.total_parameters) == (32, 32 + 800 + 16 + 4)
    assert coverage.flops == coverage.total_flops == 2 * 6 * 4 * 8
    assert [(u.name, u.parameters) for u in coverage.undecided] == [
        ("table", 800),
        ("scale", 8),
        ("shift", 8),
        ("bias", 4),
    ]
    assert [u.reason.split(":")[0] for u in coverage.undecided] == [
        "embedding table",
        "normalisation",
        "normalisation",
        "bias",
    ]


def test_a_tied_embedding_counts_once_and_is_decided(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Transpose", ["table"], ["head"], perm=[1, 0]),
        node("MatMul", ["e", "head"], ["y"], name="logits"),
    ]
    graph = imported(
        tmp_path, nodes, {"ids": ["n", 6]}, ["y"], [tensor("table", 100, 8)], types={"ids": 7}
    )
    assert graph.layers[0].gemms[0].right.source == "table"
    assert (graph.coverage.parameters, graph.coverage.total_parameters) == (800, 800)
    assert graph.coverage.undecided == ()


def test_integer_convolutions_are_named_as_not_searchable(tmp_path: Path) -> None:
    packed = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "w")
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("ConvInteger", ["q", "w", "z"], ["i"], name="conv"),
        node("Cast", ["i"], ["f"], to=1),
        node("Mul", ["f", "s"], ["y"]),
    ]
    graph = imported(tmp_path, nodes, {"x": ["n", 3, 6, 6]}, ["y"], [packed])
    assert graph.layers == ()
    (entry,) = graph.coverage.undecided
    assert (entry.name, entry.parameters) == ("w", 108)
    assert "not searchable" in entry.reason
    assert graph.coverage.total_flops == entry.flops == 2 * 16 * 4 * 27


def test_slices_of_one_stored_weight_share_a_group(tmp_path: Path) -> None:
    nodes = [
        node("Slice", ["w", "zero", "four", "one"], ["wa"]),
        node("Slice", ["w", "four", "eight", "one"], ["wb"]),
        node("MatMul", ["x", "wa"], ["a"], name="a"),
        node("MatMul", ["a", "wb"], ["y"], name="b"),
    ]
    tensors = [
        tensor("w", 4, 8),
        integers("zero", [0]),
        integers("four", [4]),
        integers("eight", [8]),
        integers("one", [1]),
    ]
    graph = imported(tmp_path, nodes, {"x": ["n", 4]}, ["y"], tensors)
    assert groups(graph) == [(["a", "b"], "shared weight")]
    assert graph.coverage.parameters == 32


def test_a_reshape_a_layer_hides_no_shared_input(tmp_path: Path) -> None:
    """Query and key read one tensor through a reshape each; what reads it in other rows stays apart."""
    nodes = [
        node("Reshape", ["x", "flat"], ["x1"]),
        node("MatMul", ["x1", "w1"], ["a"], name="a"),
        node("Reshape", ["x", "flat"], ["x2"]),
        node("MatMul", ["x2", "w2"], ["b"], name="b"),
        node("Reshape", ["x", "narrow"], ["x3"]),
        node("MatMul", ["x3", "w3"], ["c"], name="c"),
        node("Transpose", ["b"], ["bt"], perm=[1, 0]),
        node("Transpose", ["c"], ["ct"], perm=[1, 0]),
        node("MatMul", ["a", "bt"], ["s"], name="s"),
        node("MatMul", ["a", "ct"], ["t"], name="t"),
    ]
    tensors = [
        integers("flat", [-1, 8]),
        integers("narrow", [-1, 4]),
        tensor("w1", 8, 5),
        tensor("w2", 8, 5),
        tensor("w3", 4, 5),
    ]
    graph = imported(tmp_path, nodes, {"x": ["n", 6, 8]}, ["s", "t"], tensors)
    assert groups(graph)[:2] == [(["a", "b"], "one input"), (["c"], "single")]
