from pathlib import Path

import numpy as np
import pytest
from small_models import mlp_simulator, random_weights

from mpsearch.errors import InfeasibleError
from mpsearch.sensitivity.effort import suffix_shares
from mpsearch.sensitivity.perturbation import score
from mpsearch.tables import estimate_mean


def test_values_are_paired_differences_from_the_base(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4), schemes=("fp16", "fp8", "nvfp4"))
    table = score(simulator)
    difference = simulator.losses(np.array([0, 2])) - simulator.losses(np.array([0, 0]))
    assert table.values[1, 2] == pytest.approx(difference.mean())
    assert table.stderr[1, 2] == estimate_mean(difference).stderr
    assert table.unit == "nats"
    reached = suffix_shares(simulator.graph)
    assert table.cost_plans == pytest.approx(1 + 2 * reached.sum())
    assert reached[0] == 1 > reached[1]


def test_nothing_is_measured_twice(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4))
    score(simulator)
    spent = simulator.evaluations
    score(simulator)
    assert simulator.evaluations == spent


def test_an_interruption_keeps_what_was_measured(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4))

    def stop(done: int, total: int, text: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(simulator, progress=stop)
    before = simulator.evaluations
    score(simulator)
    assert 4 <= before < simulator.evaluations <= 8


def test_a_budget_that_does_not_reach_is_refused(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4))
    with pytest.raises(InfeasibleError, match=r"needs 5 evaluations.*the budget is 4"):
        score(simulator, budget=4)
    assert score(simulator, budget=5).values.any()


def test_error_bars_cover_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    weights = random_weights(16, 16, 4)
    truth = score(mlp_simulator(tmp_path, weights, n=4000, batch_size=1000, seed=99))
    inside = []
    for seed in range(20):
        found = score(mlp_simulator(tmp_path, weights, n=64, batch_size=64, seed=seed))
        for g, s in ((0, 1), (0, 2), (1, 1), (1, 2)):
            error = abs(found.values[g, s] - truth.values[g, s])
            inside.append(error < 1.96 * np.hypot(found.stderr[g, s], truth.stderr[g, s]))
    assert 0.85 <= np.mean(inside) <= 1
