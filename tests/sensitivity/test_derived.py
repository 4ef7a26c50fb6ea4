"""Metrics that are made from others: divergence, the weight-only control, interactions, the self-test."""

import json
from dataclasses import fields
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mpsearch.artifacts import digest_json
from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.sensitivity.self_test_file import read_self_test, write_self_test
from mpsearch.sensitivity.selftest import ceiling, draw_plans, self_test
from mpsearch.sensitivity.shared.additivity import additive_residual, say_residual
from mpsearch.sensitivity.shared.entries import predict
from mpsearch.simulate.simulator import Simulator
from tests.support.own_calls import scoring
from tests.support.small_models import mlp_simulator, random_weights, space_of, write_mlp


def labelled(folder: Path, loss: str | None) -> Simulator:
    path = write_mlp(folder / "mlp.onnx", random_weights(16, 16, 4))
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.standard_normal((30, 16), dtype=np.float32),
        "labels": rng.integers(0, 4, 30),
    }
    space = space_of("fp16", "fp8", "nvfp4")
    return Simulator(import_onnx(path), space, make_batches(arrays), loss=loss, device="cpu")


def test_kl_is_perturbation_where_there_are_no_labels(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4))
    np.testing.assert_array_equal(
        scoring("kl")(simulator).values, scoring("perturbation")(simulator).values
    )


def test_kl_reads_no_labels_and_is_never_negative(tmp_path: Path) -> None:
    with_labels = labelled(tmp_path, None)
    assert with_labels.loss_kind == "nll"
    table = scoring("kl")(with_labels)
    np.testing.assert_array_equal(
        table.values, scoring("perturbation")(labelled(tmp_path, "kl")).values
    )
    assert not np.array_equal(table.values, scoring("perturbation")(with_labels).values)
    assert (table.values[:, 1:] > 0).all()


def test_the_control_hurts_less_than_weights_and_activations_do(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(32, 32, 32, 4), n=100)
    control, both = scoring("weight_only")(simulator), scoring("perturbation")(simulator)
    assert control.schemes == both.schemes
    assert control.values.sum() < both.values.sum()


def test_pair_terms_are_what_measuring_both_groups_adds(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4))
    table = scoring("interactions")(simulator)
    assert table.edges.tolist() == [[0, 1], [1, 2]]
    assert table.pair_terms is not None
    base = simulator.loss(np.zeros(3, np.int64)).mean
    for plan in ([1, 2, 0], [0, 2, 2], [2, 2, 0], [0, 0, 1]):
        assignment = np.array(plan)
        expected = simulator.loss(assignment).mean - base
        assert predict(table, assignment[None])[0] == pytest.approx(expected, rel=1e-6)


def test_a_budget_of_pairs_goes_to_the_entries_that_hurt_most(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4))
    table = scoring("interactions")(simulator, budget=7 + 2)
    assert table.pair_terms is not None
    assert np.count_nonzero(table.pair_terms) == 2
    assert 2 < table.cost_plans < 9  # six single entries cost what they execute again
    assert all(term[2, 2] != 0 for term in table.pair_terms)


def test_the_residual_of_additivity_is_that_of_random_plans_below_saturation(
    tmp_path: Path,
) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4))
    table = scoring("perturbation")(simulator)
    found = self_test(simulator, table, n_plans=30, front=np.full((1, 3), 2))
    residual = additive_residual(table, found, simulator.unit)
    some = [i for i in range(30) if not found.saturated[i]]
    errors = [simulator.loss(found.assignments[i]).mean - found.predicted[i] for i in some]
    assert residual == pytest.approx(
        np.linalg.norm(errors) / np.linalg.norm(found.measured[some]), rel=1e-9
    )


def test_a_table_in_another_unit_has_no_residual(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4))
    table = scoring("perturbation")(simulator)
    found = self_test(simulator, table, n_plans=12)
    assert additive_residual(table, found, "drop of accuracy") is None
    few = self_test(simulator, table, n_plans=2)
    assert additive_residual(table, few, simulator.unit) is None


@pytest.mark.parametrize(
    ("residual", "said"),
    [
        (0.03, "Additive is sufficient here: adding up leaves 3% of the plans' loss unexplained."),
        (0.41, "Adding up leaves 41% of the plans' loss unexplained: choose by measured points."),
    ],
)
def test_the_residual_is_one_plain_sentence(residual: float, said: str) -> None:
    assert say_residual(residual) == said


def test_interactions_say_what_pairs_add_to_their_sums(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4))
    table = scoring("interactions")(simulator)
    assert table.pair_terms is not None
    base = simulator.loss(np.zeros(3, np.int64)).mean
    excess, power = 0.0, 0.0
    for (g, h), term in zip(table.edges.tolist(), table.pair_terms, strict=True):
        for s, t in product((1, 2), repeat=2):
            plan = np.zeros(3, np.int64)
            plan[[g, h]] = s, t
            excess += term[s, t] ** 2
            power += (simulator.loss(plan).mean - base) ** 2
    said = f"{(excess / power) ** 0.5:.0%} of 8 measured pairs' loss"
    assert said in table.notes[0]


def test_the_self_test_compares_with_what_the_simulator_measures(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4))
    table = scoring("perturbation")(simulator)
    found = self_test(simulator, table, n_plans=20)
    expected = [simulator.loss(plan).mean for plan in found.assignments]
    np.testing.assert_array_equal(found.measured, expected)
    np.testing.assert_array_equal(found.predicted, predict(table, found.assignments))
    assert found.overall.spearman.value > 0.7
    assert found.saturated.sum() == (found.measured > found.ceiling / 2).sum()
    assert found.useful.spearman.n == (~found.saturated).sum()
    assert found.ceiling == ceiling(simulator)


def test_plans_along_a_front_are_scored_apart_from_random_ones(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4))
    plans = np.array([[0, 0], [1, 1], [2, 1], [2, 2]])
    table = scoring("perturbation")(simulator)
    found = self_test(simulator, table, n_plans=10, front=plans)
    np.testing.assert_array_equal(found.assignments[found.along_front], plans)
    assert found.overall.spearman.n == 10
    assert found.front is not None
    assert found.front.spearman.n == 4
    alone = self_test(simulator, table, n_plans=10)
    assert alone.front is None
    assert alone.overall == found.overall


def test_a_self_test_can_be_written_and_read(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4))
    plans = np.array([[0, 1], [1, 1], [2, 1]])
    found = self_test(simulator, scoring("perturbation")(simulator), n_plans=12, front=plans)
    write_self_test(found, tmp_path / "self_test.json")
    again = read_self_test(tmp_path / "self_test.json")
    for field in fields(found):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))


def test_a_self_test_of_before_the_residual_can_be_read(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4))
    path = tmp_path / "self_test.json"
    found = self_test(simulator, scoring("perturbation")(simulator), n_plans=12)
    write_self_test(found, path, residual=0.5)
    file = json.loads(path.read_text())
    assert file["content"].pop("additive_residual") == 0.5
    path.write_text(json.dumps(file | {"digest": digest_json(file["content"])}))
    np.testing.assert_array_equal(read_self_test(path).measured, found.measured)


def test_the_models_output_error_is_measured_beside_the_layers(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4), classify=False)
    table = scoring("model_output_perturbation")(simulator)
    layer = scoring("output_perturbation")(simulator)
    np.testing.assert_array_equal(table.details["layer_output"], layer.values)
    x = simulator.batches.arrays["x"]
    full = simulator.run({"x": x})["y"].double()
    for g, s in np.ndindex(2, 3):
        plan = np.zeros(2, np.int64)
        plan[g] = s
        low = simulator.run({"x": x}, plan)["y"].double()
        expected = float((low - full).square().mean() / full.var(correction=0))
        assert table.values[g, s] == pytest.approx(expected, rel=1e-4, abs=1e-12)
    varying = float(full.var(correction=0) / full.square().mean())
    np.testing.assert_allclose(
        table.values[1] * varying, layer.values[1], rtol=1e-5
    )  # the last layer


def test_random_plans_take_only_what_is_allowed_and_differ_in_their_mixture() -> None:
    allowed = np.ones((40, 4), np.bool_)
    allowed[:, 3] = False
    allowed[0] = [False, True, False, False]
    plans = draw_plans(allowed, 200, seed=3)
    assert allowed[np.arange(40), plans].all()
    np.testing.assert_array_equal(plans, draw_plans(allowed, 200, seed=3))
    shares = (plans == 2).mean(axis=1)
    assert shares.min() < 0.05
    assert shares.max() > 0.9
