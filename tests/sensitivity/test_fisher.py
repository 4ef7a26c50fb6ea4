from pathlib import Path

import numpy as np
import pytest
import torch

from mpsearch.sensitivity.shared.error_responses import responses
from mpsearch.simulate.probe import capture, replay
from tests.support.own_calls import scoring
from tests.support.small_models import mlp_simulator, random_weights

score = scoring("fisher")
perturb = scoring("perturbation")


def test_a_linear_model_with_one_output_is_exact(tmp_path: Path) -> None:
    # the relative squared error is a quadratic form, so second order is all there is
    weights = random_weights(32, 1)
    simulator = mlp_simulator(tmp_path, weights, classify=False)
    found = score(simulator).values
    np.testing.assert_allclose(found, perturb(simulator).values, rtol=1e-4)
    assert found[0, 2] > 10 * found[0, 1] > 0


def test_a_softmax_layer_follows_the_closed_form(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(32, 4), n=16, batch_size=16)
    changes = np.concatenate([c for c, _ in responses(simulator, n_draws=2000, seed=0)])
    found = 0.5 * np.square(changes[:, :, 0, 2]).mean()
    batch = next(simulator.batches.iterate())
    tensors = capture(simulator.calibrated, [0], batch)
    logits = tensors[simulator.graph.layers[0].output].double()
    error = replay(simulator.calibrated, 0, 2, tensors).double() - logits
    p = torch.softmax(logits, -1)
    exact = 0.5 * float(((p * error**2).sum(-1) - (p * error).sum(-1) ** 2).mean())
    assert found == pytest.approx(exact, rel=0.05)


def test_independent_errors_are_the_sum_of_squares(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(32, 1), classify=False)
    table = score(simulator)
    np.testing.assert_allclose(table.details["independent_errors"], table.values, rtol=1e-6)
    wide = score(mlp_simulator(tmp_path, random_weights(32, 24, 4)))
    assert not np.allclose(wide.details["independent_errors"], wide.values)


def test_small_errors_are_predicted_in_size_not_only_in_rank(tmp_path: Path) -> None:
    weights = random_weights(32, 24, 16, 4)
    simulator = mlp_simulator(tmp_path, weights, n=128, batch_size=64)
    predicted, measured = score(simulator).values, perturb(simulator).values
    ratio = predicted[:, 1] / measured[:, 1]
    assert ((ratio > 0.6) & (ratio < 1.6)).all()


def test_another_seed_draws_other_labels(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(32, 24, 4))
    one, other = score(simulator, seed=0), score(simulator, seed=1)
    assert (one.values[:, 1:] != other.values[:, 1:]).all()
    within = np.abs(one.values - other.values) < 5 * np.hypot(one.stderr, other.stderr)
    assert within[:, 1:].all()
