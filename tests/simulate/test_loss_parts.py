"""Where a loss comes from: outputs, groups of their channels, slices of the data."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.simulate.loss_parts import find_lopsided, losses_by_output, losses_by_slice
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import uniform
from mpsearch.stats.estimates import Estimate
from tests.support.small_models import space_of

N, HIDDEN = 40, 32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 16)).astype(np.float32)
SLICE = np.array(["day", "night"])[np.arange(N) % 2]


def detector(path: Path) -> Path:
    """Boxes over hundreds beside scores over hundredths in ``found``, and class logits in ``kind``."""
    found = RNG.normal(size=(HIDDEN, 7)).astype(np.float32) * np.array([100] * 4 + [0.01] * 3)
    weights = {
        "w1": RNG.normal(size=(16, HIDDEN)).astype(np.float32) / 4,
        "w2": found.astype(np.float32),
        "w3": RNG.normal(size=(HIDDEN, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["h"], "relu"),
        helper.make_node("MatMul", ["h", "w2"], ["f"], "boxes_and_scores"),
        helper.make_node("Neg", ["f"], ["found"], "numbers"),
        helper.make_node("MatMul", ["h", "w3"], ["logits"], "classes"),
        helper.make_node("Softmax", ["logits"], ["kind"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", 1, ["n", 16])],
        [
            helper.make_tensor_value_info("found", 1, ["n", 7]),
            helper.make_tensor_value_info("kind", 1, ["n", 5]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 9
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    path = detector(tmp_path_factory.mktemp("parts") / "detector.onnx")
    batches = make_batches({"x": X, "slice": SLICE}, batch_size=16)
    return Simulator(import_onnx(path), space_of("fp16", "int8", "nvfp4"), batches)


def test_parts_are_relative_errors_and_divergences_written_out(simulator: Simulator) -> None:
    assignment = uniform(simulator.space, simulator.graph, "nvfp4", simulator.allowed)
    parts = losses_by_output(simulator, assignment)
    assert list(parts) == ["found[0:4]", "found[4:7]", "kind"]
    exact, moved = (
        {name: t.double().numpy() for name, t in simulator.run({"x": X}, a).items()}
        for a in (None, assignment)
    )
    for name, columns in (("found[0:4]", slice(0, 4)), ("found[4:7]", slice(4, 7))):
        want = exact["found"][:, columns]
        error = ((moved["found"][:, columns] - want) ** 2).mean() / want.var()
        assert parts[name].mean == pytest.approx(error, rel=1e-4)
    p, q = exact["kind"], moved["kind"]
    assert parts["kind"].mean == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-3)


def test_the_loss_is_the_mean_over_outputs_of_the_mean_over_their_groups(
    simulator: Simulator,
) -> None:
    assignment = uniform(simulator.space, simulator.graph, "int8", simulator.allowed)
    parts = losses_by_output(simulator, assignment)
    found = (parts["found[0:4]"].mean + parts["found[4:7]"].mean) / 2
    assert simulator.loss(assignment).mean == pytest.approx(
        (found + parts["kind"].mean) / 2, rel=1e-9
    )


def test_slices_are_means_of_their_own_samples(simulator: Simulator) -> None:
    assignment = uniform(simulator.space, simulator.graph, "int8", simulator.allowed)
    losses = simulator.losses(assignment)
    found = losses_by_slice(simulator, assignment)
    assert {name: value.mean for name, value in found.items()} == {
        "day": pytest.approx(losses[::2].mean()),
        "night": pytest.approx(losses[1::2].mean()),
    }


def test_one_output_and_no_slices_have_no_parts(simulator: Simulator) -> None:
    alone = simulator.by_loss("kl:kind")
    assignment = uniform(simulator.space, simulator.graph, "int8", simulator.allowed)
    assert losses_by_output(alone, assignment) == {}
    assert losses_by_slice(alone.on_data(make_batches({"x": X}, batch_size=16)), assignment) == {}


def test_a_part_is_named_where_it_loses_ten_times_the_others_beyond_its_error() -> None:
    few = Estimate(0.01, 0.001)
    assert find_lopsided({"boxes": few, "scores": Estimate(0.11, 0.01)}) == {
        "scores": pytest.approx(11)
    }
    assert find_lopsided({"boxes": few, "scores": Estimate(0.09, 0.01)}) == {}
    assert find_lopsided({"boxes": few, "scores": Estimate(0.11, 0.06)}) == {}
    assert find_lopsided({"boxes": Estimate(0, 0), "scores": few}) == {"scores": np.inf}
    assert find_lopsided({"alone": few}) == {}
