from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import InfeasibleError
from mpsearch.sensitivity.shared.effort import suffix_shares
from mpsearch.sensitivity.shared.entries import single_changes
from mpsearch.sensitivity.shared.sampling import measure_entries
from mpsearch.stats.estimates import estimate_mean
from tests.support.counting import CountingLosses
from tests.support.own_calls import scoring
from tests.support.small_models import mlp_simulator, random_weights

score = scoring("perturbation")


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
    store = CountingLosses()
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4)).keep_losses(store)
    score(simulator)
    spent = store.batches
    assert spent == 5 * simulator.n_batches
    score(simulator)
    assert store.batches == spent


def test_an_interruption_keeps_what_was_measured(tmp_path: Path) -> None:
    store = CountingLosses()
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 16, 4)).keep_losses(store)

    def stop(done: int, total: int, text: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(simulator, progress=stop)
    before = store.batches
    score(simulator)
    assert 4 * simulator.n_batches <= before < store.batches == 7 * simulator.n_batches


def test_a_budget_that_does_not_reach_is_refused(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 16, 4))
    with pytest.raises(InfeasibleError, match=r"needs 5 evaluations.*the budget is 4"):
        score(simulator, budget=4)
    assert score(simulator, budget=5).values.any()


def test_error_bars_cover_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    weights = random_weights(16, 16, 4)
    everything = mlp_simulator(tmp_path, weights, n=3000, batch_size=1000, seed=99)
    truth = score(everything).values
    changes = measure_entries(everything, single_changes(everything)).changes
    inside = []
    for seed in range(60):
        rows = np.random.default_rng(seed).permutation(3000)[:64]
        for entry, losses in changes.items():
            mean, stderr = estimate_mean(losses[rows])
            inside.append(abs(mean - truth[entry]) <= 1.96 * stderr)
    assert 0.9 <= np.mean(inside) <= 0.97


def test_scoring_part_of_the_data_gives_the_estimates_of_that_part(tmp_path: Path) -> None:
    weights = random_weights(16, 16, 4)
    everything = mlp_simulator(tmp_path, weights, n=200, batch_size=100, seed=99)
    changes = measure_entries(everything, single_changes(everything)).changes
    part = everything.on_data(everything.batches.take(64))
    table = score(part)
    for (g, s), losses in changes.items():
        assert table.values[g, s] == pytest.approx(losses[:64].mean(), rel=1e-4, abs=1e-7)
