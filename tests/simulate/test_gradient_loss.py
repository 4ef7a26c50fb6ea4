"""Nodes without a gradient, drawn numbers and branches: warned of, seeded, simulated."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import MpsearchError
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.program.onnxruntime_fallback import FallbackWarning
from mpsearch.schemes import find_scheme
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.simulate.gradients.lost import GradientWarning, find_lost
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import build, imported

SPACE = SearchSpace("test", tuple(map(find_scheme, ("fp16", "fp8"))))
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 8)).astype(np.float32)


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / 3).astype(np.float32)


def blocked_net() -> onnx.ModelProto:
    """first → a node that only onnxruntime knows → second, joined by a layer beside them."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Normalizer", ["a"], ["s"], name="odd", domain="ai.onnx.ml", norm="L2"),
        helper.make_node("MatMul", ["s", "w1"], ["c"], name="second"),
        helper.make_node("Neg", ["x"], ["t"], name="turn"),
        helper.make_node("MatMul", ["t", "w2"], ["d"], name="beside"),
        helper.make_node("Add", ["c", "d"], ["z"], name="join"),
    ]  # fmt: skip
    weights = {"w0": weight(8, 8), "w1": weight(8, 4), "w2": weight(8, 4)}
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
             for n, s in (("x", ["n", 8]), ("z", ["n", 4]))]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", infos[:1], infos[1:],
        [onnx.numpy_helper.from_array(w, n) for n, w in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def blocked_graph(folder: Path) -> ModelGraph:
    path = folder / "model.onnx"
    onnx.save(blocked_net(), path)
    return import_onnx(path)


def test_a_node_that_onnxruntime_runs_is_named(tmp_path: Path) -> None:
    graph = blocked_graph(tmp_path)
    with pytest.warns(FallbackWarning, match=r"'odd' \(Normalizer\)"):
        simulator = Simulator(graph, SPACE, make_batches({"x": X}))
    scores = X @ graph.constants["w0"]
    scores /= np.linalg.norm(scores, axis=1, keepdims=True)
    z = scores @ graph.constants["w1"] - X @ graph.constants["w2"]
    np.testing.assert_allclose(simulator.run({"x": X})["z"].numpy(), z, rtol=1e-4, atol=1e-5)


def test_calibrated_starts_from_noise_where_a_layer_has_no_gradient(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        simulator = Simulator(blocked_graph(tmp_path), SPACE, make_batches({"x": X}))
    assert simulator.layers_without_gradient() == (0,)
    table = score_sensitivity(simulator, metric="calibrated", budget=3)
    np.testing.assert_array_equal(
        table.details["prior"], score_sensitivity(simulator, metric="sqnr").values
    )
    assert table.values[0, 1] > 0
    assert table.unit == simulator.unit


def test_layers_that_lose_their_gradient_are_named_and_metrics_say_so(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        simulator = Simulator(blocked_graph(tmp_path), SPACE, make_batches({"x": X}))
    lost, blocking = find_lost(simulator.program, [simulator.program.slots["z"]])
    assert [simulator.graph.layers[layer].name for layer in lost] == ["first"]
    assert [step.node.name for step in blocking] == ["odd"]
    message = r"no gradient passes node 'odd' \(Normalizer\).* 1 of 3 layers .*first"
    with pytest.warns(GradientWarning, match=message):
        table = score_sensitivity(simulator, metric="fisher")
    fp8 = table.values[:, 1]
    groups = simulator.groups
    assert fp8[groups.index("first")] == 0  # not known to be harmless: no gradient came
    assert fp8[groups.index("second")] > 0
    with pytest.warns(GradientWarning, match="'odd'"):
        _, gradient = simulator.loss_and_gradient(np.full((3, 2), 0.5))
    assert np.all(gradient[groups.index("first")] == 0)
    assert np.any(gradient[groups.index("beside")] != 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a metric that needs no gradient has nothing to say
        assert score_sensitivity(simulator, metric="perturbation").values[0, 1] != 0


def drawn_net(seed: float | None) -> onnx.ModelProto:
    more = {} if seed is None else {"seed": seed}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("RandomNormalLike", ["a"], ["r"], name="noise", scale=0.1, **more),
        helper.make_node("Add", ["a", "r"], ["z"], name="noisy"),
    ]
    return build(nodes, {"x": ["n", 8]}, {"z": ["n", 4]}, {"w": weight(8, 4)})


@pytest.mark.parametrize("seed", [None, 3.0])
def test_drawn_numbers_are_the_same_in_every_run(seed: float | None, tmp_path: Path) -> None:
    graph = imported(drawn_net(seed), tmp_path)
    found = [
        Simulator(graph, SPACE, make_batches({"x": X})).run({"x": X})["z"].numpy() for _ in range(2)
    ]
    assert np.array_equal(*found)
    noise = found[0] - X @ graph.constants["w"]
    assert 0.03 < noise.std() < 0.3
    simulator = Simulator(graph, SPACE, make_batches({"x": X}))
    exact = simulator.loss(np.array([0])).mean
    assert 0 <= exact < 1e-5  # what is drawn is no difference between fp32 and fp16


def branching_net() -> onnx.ModelProto:
    """sum(x) > 0 chooses between two layers."""

    def branch(name: str, x: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", [x, f"w_{name}"], [f"y_{name}"], name=f"layer_{name}")
        info = helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, ["n", 4])
        return helper.make_graph([node], name, [], [info])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="before"),
        helper.make_node("Neg", ["a"], ["b"], name="turn"),
        helper.make_node("ReduceSum", ["x"], ["total"], name="sum", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"], name="test"),
        helper.make_node("If", ["positive"], ["z"], name="choose",
                         then_branch=branch("yes", "a"), else_branch=branch("no", "b")),
    ]  # fmt: skip
    weights = {
        "w": weight(8, 8),
        "w_yes": weight(8, 4),
        "w_no": weight(8, 4),
        "zero": np.float32(0),
    }
    return build(nodes, {"x": ["n", 8]}, {"z": ["n", 4]}, weights)


def test_layers_of_the_branch_that_runs_are_simulated(tmp_path: Path) -> None:
    model = branching_net()
    graph = imported(model, tmp_path)
    assert len(graph.layers) == 3
    x = np.concatenate([np.abs(X[:3]), -np.abs(X[3:])])  # one batch a branch
    simulator = Simulator(graph, SPACE, make_batches({"x": x}, batch_size=3))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for rows, weight_name, sign in ((x[:3], "w_yes", 1), (x[3:], "w_no", -1)):
        expected = sign * rows @ weights["w"] @ weights[weight_name]
        np.testing.assert_allclose(simulator.run({"x": rows})["z"].numpy(), expected, atol=1e-5)
    base = simulator.losses(np.zeros(3, np.int64))
    yes = next(g for g, name in enumerate(simulator.groups) if "layer_yes" in name)
    changed = simulator.losses(np.eye(3, dtype=np.int64)[yes])
    assert np.all(changed[:3] != base[:3])
    assert np.array_equal(changed[3:], base[3:])


def test_gradients_pass_loops(tmp_path: Path) -> None:
    from tests.program.test_program import looped_product

    x = np.random.default_rng(1).standard_normal((6, 16)).astype(np.float32)
    simulator = Simulator(imported(looped_product(3), tmp_path), SPACE, make_batches({"x": x}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, gradient = simulator.loss_and_gradient(np.array([[0.5, 0.5]]))
    assert gradient[0, 1] != gradient[0, 0]
    assert torch.isfinite(torch.tensor(gradient)).all()


def test_a_node_that_onnxruntime_lacks_too_is_refused_by_name(tmp_path: Path) -> None:
    model = blocked_net()
    for node in model.graph.node:
        if node.name == "odd":
            del node.attribute[:]  # of CUDA alone
            node.op_type, node.domain = "BiasSoftmax", "com.microsoft"
            node.input.append("x")
            node.attribute.append(helper.make_attribute("axis", 1))
            node.attribute.append(helper.make_attribute("is_inner_broadcast", 0))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "model.onnx")
    graph = import_onnx(tmp_path / "model.onnx")
    with pytest.raises(MpsearchError, match=r"com.microsoft.BiasSoftmax \(opset 1\) × 1"):
        Simulator(graph, SPACE, make_batches({"x": X}))
