from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.cost.memory import peak_activation_bytes
from mpsearch.cost.values import Sizes
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from tests.cost.test_phases import HEADS, SPACE, WIDTH, decoder


@pytest.fixture
def branched(tmp_path: Path) -> ModelGraph:
    """x [n, 8] -> a = relu(x w1) [n, 64] -> b = a w2 [n, 4]; y = b + (x w3) [n, 4]."""
    rng = np.random.default_rng(0)
    weights = {"w1": (8, 64), "w2": (64, 4), "w3": (8, 4)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"], "first"),
        helper.make_node("Relu", ["p"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["b"], "second"),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("MatMul", ["x", "w3"], ["d"], "side"),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    floats = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "branched",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [*floats, numpy_helper.from_array(np.array([-1, 4]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "branched.onnx")
    return import_onnx(tmp_path / "branched.onnx")


def test_the_peak_is_of_the_tensors_that_live_together(branched: ModelGraph) -> None:
    # at the Relu: x [5, 8], p and a [5, 64]; a view of b takes nothing of its own
    assert peak_activation_bytes(branched, 2, Sizes(5)) == 5 * (8 + 64 + 64) * 2


def test_memory_is_weights_activations_and_what_nobody_decides(branched: ModelGraph) -> None:
    costs = estimate_costs(branched, SPACE, "h100_sxm5_80gb", batch=5)
    np.testing.assert_array_equal(
        costs.objectives["memory_bytes"], costs.objectives["weight_bytes"]
    )
    assert costs.constants["memory_bytes"] == 5 * (8 + 64 + 64) * 2


def test_cached_keys_and_values_take_the_format_they_are_read_in() -> None:
    costs = estimate_costs(decoder(), SPACE, "h100_sxm5_80gb", tokens={"decode": "1@kv=1023"})
    kept = costs.objectives["memory_bytes"] - costs.objectives["weight_bytes"]
    elements = HEADS * 1024 * WIDTH
    np.testing.assert_array_equal(kept[[1, 2]], [[2 * elements, elements]] * 2)
    assert not kept[[0, 3]].any()
    bare = estimate_costs(decoder(), SPACE, "h100_sxm5_80gb", tokens={"prefill": "1024"})
    assert not (bare.objectives["memory_bytes"] - bare.objectives["weight_bytes"]).any()


@pytest.mark.parametrize("fused", [False, True])
def test_heads_that_share_keys_keep_them_once(tmp_path: Path, fused: bool) -> None:
    """Eight heads of queries on two of keys: as an operator, and as torch.export writes repeated keys."""
    tokens, wide = 16, 8
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", heads, tokens, wide])
        for name, heads in (("q", 8), ("k", 2), ("v", 2))
    ]
    node = helper.make_node
    if fused:
        nodes = [node("Attention", ["q", "k", "v"], ["y"], "attend")]
    else:
        nodes = [
            node("Unsqueeze", ["k", "axis"], ["k5"]),
            node("Expand", ["k5", "grown"], ["ke"]),
            node("Reshape", ["ke", "flat"], ["kr"]),
            node("Transpose", ["kr"], ["kt"], perm=[0, 1, 3, 2]),
            node("MatMul", ["q", "kt"], ["s"], "scores"),
            node("Softmax", ["s"], ["p"]),
            node("Unsqueeze", ["v", "axis"], ["v5"]),
            node("Expand", ["v5", "grown"], ["ve"]),
            node("Reshape", ["ve", "flat"], ["vr"]),
            node("MatMul", ["p", "vr"], ["y"], "values"),
        ]
    constants = {"axis": [2], "grown": [1, 1, 4, 1, 1], "flat": [0, 8, tokens, wide]}
    tensors = [numpy_helper.from_array(np.array(v), name) for name, v in constants.items()]
    graph = helper.make_graph(
        nodes,
        "shared",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, tokens, wide])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.save(model, tmp_path / "shared.onnx")
    found = import_onnx(tmp_path / "shared.onnx")
    costs = estimate_costs(found, SPACE, "h100_sxm5_80gb", tokens={"decode": "1@kv=1023"})
    keys_and_values = 2 * 2 * 1024 * wide
    assert costs.objectives["memory_bytes"][:, 0].sum() == 2 * keys_and_values
