"""Subgraphs: weights inside them, branches that are known, names that repeat, local functions."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.graph.importer import import_onnx
from tests.support.graph_models import assert_same_outputs, integers, model, noise, save, tensor

node = helper.make_node
info = helper.make_tensor_value_info


def branch(name: str, weight: onnx.TensorProto, *, constant: bool = False) -> onnx.GraphProto:
    """Return a branch that multiplies the outer ``x`` by its own weight, all names as in its twin."""
    nodes = [node("MatMul", ["x", "w"], ["h"], name="fc"), node("Relu", ["h"], ["out"])]
    if constant:
        nodes.insert(0, node("Constant", [], ["w"], value=weight))
    tensors = [] if constant else [weight]
    return helper.make_graph(nodes, name, [], [info("out", TensorProto.FLOAT, None)], tensors)


@pytest.mark.parametrize("constant", [False, True])
def test_weights_in_both_branches_are_layers(tmp_path: Path, constant: bool) -> None:
    nodes = [
        node(
            "If",
            ["flag"],
            ["y"],
            name="choice",
            then_branch=branch("a", tensor("w", 4, 3, seed=1), constant=constant),
            else_branch=branch("b", tensor("w", 4, 3, seed=2), constant=constant),
        )
    ]
    proto = model(nodes, {"flag": [], "x": ["n", 4]}, ["y"], types={"flag": TensorProto.BOOL})
    graph = import_onnx(save(proto, tmp_path))
    layers = {layer.name: layer for layer in graph.layers}
    assert set(layers) == {"choice/then_branch/fc", "choice/else_branch/fc"}
    first, second = (
        layers[f"choice/{which}_branch/fc"].gemms[0].right for which in ("then", "else")
    )
    assert first.source == "choice/then_branch/w"
    assert second.source == "choice/else_branch/w"
    assert not np.array_equal(graph.constants[first.value], graph.constants[second.value])
    assert graph.coverage.parameters == 24
    for flag in (True, False):
        assert_same_outputs(proto, graph, {"flag": np.array(flag), "x": noise(2, 4)})


def test_a_known_branch_is_inlined(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["width"]),
        node("Equal", ["width", "four"], ["flag"]),
        node(
            "If",
            ["flag"],
            ["y"],
            name="choice",
            then_branch=branch("a", tensor("w", 4, 3, seed=1)),
            else_branch=branch("b", tensor("w", 4, 3, seed=2)),
        ),
    ]
    tensors = [integers("one", 1), integers("four", 4)]
    proto = model(nodes, {"x": ["n", 4]}, ["y"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert [n.op_type for n in graph.nodes][:2] == ["MatMul", "Relu"]
    assert [layer.name for layer in graph.layers] == ["choice/then_branch/fc"]
    assert_same_outputs(proto, graph, {"x": noise(3, 4)})


def test_a_branch_on_the_batch_is_not_decided(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["batch"]),
        node("Equal", ["batch", "one"], ["flag"]),
        node(
            "If",
            ["flag"],
            ["y"],
            name="choice",
            then_branch=branch("a", tensor("w", 4, 3, seed=1)),
            else_branch=branch("b", tensor("w", 4, 3, seed=2)),
        ),
    ]
    proto = model(nodes, {"x": ["n", 4]}, ["y"], [integers("zero", 0), integers("one", 1)])
    graph = import_onnx(save(proto, tmp_path))
    for batch in (1, 2):
        assert_same_outputs(proto, graph, {"x": noise(batch, 4)})


def loop_body(*, grows: bool) -> onnx.GraphProto:
    step = (
        [node("Concat", ["h", "x"], ["h2"], axis=1)]
        if grows
        else [node("MatMul", ["h", "w"], ["m"], name="step"), node("Tanh", ["m"], ["h2"])]
    )
    return helper.make_graph(
        [*step, node("Identity", ["go"], ["go2"]), node("ReduceMax", ["h2"], ["top"], keepdims=0)],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("h", 1, None)],
        [info("go2", TensorProto.BOOL, []), info("h2", 1, None), info("top", 1, [])],
    )


@pytest.mark.parametrize("grows", [False, True])
def test_loops_run_as_they_did(tmp_path: Path, grows: bool) -> None:
    nodes = [
        node("Loop", ["trips", "", "x"], ["y", "tops"], name="loop", body=loop_body(grows=grows))
    ]
    tensors = [integers("trips", 3), tensor("w", 4, 4)]
    proto = model(nodes, {"x": ["n", 4]}, ["y", "tops"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert graph.values["y"].shape == ((1, None) if grows else (1, 4))
    assert_same_outputs(proto, graph, {"x": noise(2, 4)})


def test_scans_run_as_they_did(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            node("MatMul", ["piece", "w"], ["a"], name="step"),
            node("Add", ["state", "a"], ["next"]),
            node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [info("state", 1, None), info("piece", 1, None)],
        [info("next", 1, None), info("seen", 1, None)],
    )
    nodes = [
        node("Scan", ["start", "x"], ["last", "all"], name="scan", body=body, num_scan_inputs=1)
    ]
    tensors = [tensor("w", 4, 3)]
    proto = model(nodes, {"start": ["n", 3], "x": [5, "n", 4]}, ["last", "all"], tensors)
    graph = import_onnx(save(proto, tmp_path))
    assert graph.values["all"].shape == (5, 1, 3)
    assert graph.layers[0].calls == 5
    assert (graph.layers[0].m, graph.layers[0].n, graph.layers[0].k) == (1, 3, 4)
    for batch in (1, 2):
        assert_same_outputs(proto, graph, {"start": noise(batch, 3), "x": noise(5, batch, 4)})


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    dense = helper.make_function(
        "local",
        "Dense",
        ["x", "w", "b"],
        ["y"],
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        node("Dense", ["x", "w1", "b"], ["h"], domain="local"),
        node("Dense", ["h", "w2", "b"], ["y"], domain="local"),
    ]
    tensors = [tensor("w1", 4, 4), tensor("w2", 4, 4), tensor("b", 4)]
    proto = model(nodes, {"x": ["n", 4]}, ["y"], tensors, functions=[dense], domains=["local"])
    graph = import_onnx(save(proto, tmp_path))
    assert [n.op_type for n in graph.nodes] == ["MatMul", "Add", "MatMul", "Add"]
    assert [layer.gemms[0].right.source for layer in graph.layers] == ["w1", "w2"]
    assert_same_outputs(proto, graph, {"x": noise(2, 4)})


def test_initialisers_that_are_inputs_too_are_constants(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(noise(4, 3), "w")
    proto = model(
        [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 4], "w": [4, 3]}, ["y"], [weight]
    )
    graph = import_onnx(save(proto, tmp_path))
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.layers[0].has_weight
