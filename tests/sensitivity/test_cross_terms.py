from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.sensitivity.cross_terms import fit_factor, predicted_pairs
from mpsearch.sensitivity.shared.entries import base_assignment, change_one
from mpsearch.simulate.simulator import Simulator
from tests.support.own_calls import scoring
from tests.support.small_models import DENSE, mlp_simulator, random_weights, space_of

score = scoring("cross_terms")


def two_branches(folder: Path) -> Simulator:
    """y = x W1 + relu(x) W2, one number: its squared error is a quadratic form of both branches."""
    weights = random_weights(32, 1, seed=1) + random_weights(32, 1, seed=2)
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "one"),
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w1"], ["b"], "two"),
        helper.make_node("Add", ["a", "b"], ["y"], "sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "branches.onnx")
    x = np.random.default_rng(0).standard_normal((40, 32), dtype=np.float32)
    batches = make_batches({"x": x}, batch_size=16)
    return Simulator(import_onnx(folder / "branches.onnx"), space_of(*DENSE), batches, device="cpu")


def test_predicted_pairs_are_brute_force_where_the_loss_is_quadratic(tmp_path: Path) -> None:
    simulator = two_branches(tmp_path)
    edges, terms = predicted_pairs(simulator)
    assert edges.tolist() == [[0, 1]]
    base = base_assignment(simulator)
    for s in (1, 2):
        for t in (1, 2):
            one, other = change_one(base, 0, s), change_one(base, 1, t)
            both = simulator.losses(change_one(one, 1, t)).mean()
            brute = both - simulator.losses(one).mean() - simulator.losses(other).mean()
            assert terms[0, s, t] == pytest.approx(brute, rel=1e-3)
    assert (terms[:, 0] == 0).all()
    assert (terms[:, :, 0] == 0).all()


def test_the_factor_is_found_and_never_leaves_its_range() -> None:
    rng = np.random.default_rng(0)
    alone = rng.gamma(2, size=50)
    together = alone + rng.normal(0, 0.3, 50)
    assert fit_factor(alone, together, 0.6 * alone + 0.4 * together) == pytest.approx(0.4)
    assert fit_factor(alone, together, alone) == 0
    assert fit_factor(alone[:2], together[:2], alone[:2]) == 0


def test_single_values_are_those_of_perturbation(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(32, 24, 24, 4))
    table = score(simulator)
    base = base_assignment(simulator)
    expected = simulator.losses(change_one(base, 1, 2)) - simulator.losses(base)
    assert table.values[1, 2] == pytest.approx(expected.mean())
    assert table.pair_terms is not None
    assert table.pair_terms.shape == (3, 3, 3)
