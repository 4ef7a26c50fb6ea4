from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mpsearch.cost.device import read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.cost.operators import other_kernels
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.space.files import read_space
from mpsearch.space.rules import Fusing


def read(folder: Path, nodes: Sequence[NodeProto]) -> ModelGraph:
    """x [n, 16] through ``nodes``, which may use the weights w1 and w2 [16, 16], to y."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=(16, 16)).astype(np.float32), name)
        for name in ("w1", "w2")
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "made.onnx")
    return import_onnx(folder / "made.onnx")


@pytest.fixture
def block(tmp_path: Path) -> ModelGraph:
    """softmax(x) -> first -> relu -> second -> + softmax(x) -> sin, cos of it, multiplied."""
    node = helper.make_node
    return read(
        tmp_path,
        [
            node("Softmax", ["x"], ["s"], "soft"),
            node("MatMul", ["s", "w1"], ["a"], "first"),
            node("Relu", ["a"], ["r"], "relu"),
            node("MatMul", ["r", "w2"], ["b"], "second"),
            node("Add", ["b", "s"], ["c"], "add"),
            node("Sin", ["c"], ["sin"], "sine"),
            node("Cos", ["c"], ["cos"], "cosine"),
            node("Mul", ["sin", "cos"], ["y"], "times"),
        ],
    )


def test_operators_run_within_the_kernel_before_them_or_in_one_of_their_own(
    block: ModelGraph,
) -> None:
    add, soft, wave = other_kernels(block, Fusing())
    assert (add.nodes, add.layer, add.reads, add.writes) == (("add",), "second", ("s",), ())
    assert (soft.nodes, soft.layer, soft.reads, soft.writes) == (("soft",), "", ("x",), ("s",))
    assert wave.nodes == ("sine", "cosine", "times")
    assert (wave.reads, wave.writes) == (("c",), ("y",))


def test_a_runtime_that_fuses_nothing_runs_each(block: ModelGraph) -> None:
    found = other_kernels(block, Fusing(epilogues=(), elementwise=False))
    assert [kernel.nodes for kernel in found] == [
        ("soft",), ("relu",), ("add",), ("sine",), ("cosine",), ("times",),
    ]  # fmt: skip
    assert not any(kernel.layer for kernel in found)


def test_what_others_read_too_is_no_epilogue(tmp_path: Path) -> None:
    node = helper.make_node
    graph = read(
        tmp_path,
        [
            node("MatMul", ["x", "w1"], ["a"], "first"),
            node("Relu", ["a"], ["r"], "relu"),
            node("Add", ["a", "r"], ["y"], "add"),
        ],
    )
    assert [kernel.nodes for kernel in other_kernels(graph, Fusing())] == [("relu", "add")]


def test_their_bytes_are_a_constant_of_the_latency(block: ModelGraph) -> None:
    device = read_device("h100_sxm5_80gb")
    costs = estimate_costs(block, read_space("hopper"), device, batch=4)
    tensor = 4 * 16 * 2
    moved = tensor * (1 + 2 + 2)  # what add reads; softmax and the wave read and write
    assert costs.constants["latency_us"] == pytest.approx(2 * 2.0 + moved / 3350e3)
    assert costs.constants["energy_uj"] == pytest.approx(700 * costs.constants["latency_us"])
