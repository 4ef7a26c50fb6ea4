"""Sampling: stop when the ranking is settled or the time is up, and never measure twice."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mpsearch import deadline
from mpsearch.errors import MetricError, NumericsError
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.shared.entries import single_changes
from mpsearch.sensitivity.shared.sampling import measure_entries, misordered_share
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, Ints
from tests.support.counting import CountingLosses
from tests.support.small_models import mlp_simulator, random_weights


class Ticking:
    """A clock that moves by one second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return mlp_simulator(tmp_path, random_weights(16, 16, 12, 4), n=96, batch_size=16)


def test_the_share_of_discordant_pairs_is_what_more_data_would_reorder() -> None:
    rng = np.random.default_rng(0)
    true = np.linspace(0.0, 1.0, 12)
    shares, wrong = [], []
    for _ in range(60):
        samples = true[:, None] + rng.normal(0, 2, (12, 40))
        shares.append(misordered_share(list(samples)))
        tau = stats.kendalltau(true, samples.mean(axis=1)).statistic
        wrong.append((1 - tau) / 2)
    assert np.mean(shares) == pytest.approx(np.mean(wrong), abs=0.04)


def test_noise_that_all_entries_share_disorders_nothing() -> None:
    noise = np.random.default_rng(1).normal(0, 100, 30)
    assert misordered_share([noise, noise + 1, noise + 2]) == 0


def test_entries_that_are_equal_are_in_no_wrong_order() -> None:
    same = np.random.default_rng(1).normal(0, 1, 30)
    assert misordered_share([same, same.copy()]) == 0
    assert misordered_share([np.zeros(3), np.zeros(3)]) == 0
    assert misordered_share([np.ones(1), np.zeros(1)]) == 0.5


def test_a_loose_tolerance_stops_early_and_says_so(simulator: Simulator) -> None:
    table = score_sensitivity(simulator, metric="perturbation", settings={"tolerance": 0.2})
    seen = table.details["samples"][0, 1]
    assert 16 <= seen < 96
    assert (table.details["samples"][:, 1:] == seen).all()
    assert f"stopped at {seen:.0f} of 96 samples" in table.notes[0]
    full = score_sensitivity(simulator, metric="perturbation")
    assert stats.kendalltau(table.values, full.values).statistic > 0.8


def test_a_strict_tolerance_takes_all_data(simulator: Simulator) -> None:
    table = score_sensitivity(simulator, metric="perturbation", settings={"tolerance": 0.0})
    np.testing.assert_array_equal(
        table.values, score_sensitivity(simulator, metric="perturbation").values
    )
    assert table.notes == ()


def test_a_time_budget_returns_what_was_measured_and_how_much_that_is(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "time", Ticking())
    table = score_sensitivity(simulator, metric="perturbation", time_limit_s=12)
    samples = table.details["samples"][:, 1:]
    assert {16.0, 32.0} == set(samples.flatten().tolist())
    assert table.allowed.all()
    assert "entries saw 16 to 32 of 96 samples, 0 of 6 none" in table.notes[0]


def test_what_the_time_did_not_reach_is_not_allowed_and_not_zero_loss(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "time", Ticking())
    table = score_sensitivity(simulator, metric="perturbation", time_limit_s=5)
    reached = table.details["samples"] > 0
    assert 0 < reached.sum() < 6
    np.testing.assert_array_equal(table.allowed[:, 1:], reached[:, 1:])
    assert table.allowed[:, 0].all()
    g, s = np.argwhere(~table.allowed)[0]
    assert "time budget" in table.reasons[table.groups[g], table.schemes[s]]


def test_scoring_goes_on_where_it_stopped(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole = CountingLosses(), CountingLosses()
    fresh = simulator.on_data(simulator.batches).keep_losses(whole)
    simulator = simulator.keep_losses(store)
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "time", Ticking())
        score_sensitivity(simulator, metric="perturbation", time_limit_s=12)
    assert store.batches > 0
    table = score_sensitivity(simulator, metric="perturbation")
    np.testing.assert_array_equal(
        table.values, score_sensitivity(fresh, metric="perturbation").values
    )
    assert store.batches == whole.batches


def test_an_entry_that_overflows_only_when_it_runs_is_named_and_the_others_are_scored(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = simulator.losses

    def losses(assignment: Ints, batches: list[int] | None = None) -> Floats:
        if assignment[1] == 2:
            raise NumericsError("outputs must be finite, but layer 'fc1' (MatMul) holds Inf")
        return own(assignment, batches)

    monkeypatch.setattr(simulator, "losses", losses)
    table = score_sensitivity(simulator, metric="perturbation")
    assert not table.allowed[1, 2]
    assert table.allowed.sum() == 8
    assert "overflows on the data" in table.reasons["fc1", "nvfp4"]
    assert "fc1" in table.reasons["fc1", "nvfp4"]


def test_fisher_stops_after_a_batch(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "time", Ticking())
    table = score_sensitivity(simulator, metric="fisher", time_limit_s=2)
    assert table.notes == ("stopped by the time budget of 2 s at 32 of 96 samples",)
    assert (table.values[:, 1:] > 0).all()


def test_a_metric_that_cannot_stop_says_so(simulator: Simulator) -> None:
    with pytest.raises(MetricError, match="metric sqnr cannot stop early"):
        score_sensitivity(simulator, metric="sqnr", time_limit_s=1)


def test_one_sample_is_said_to_have_unknown_errors(tmp_path: Path) -> None:
    table = score_sensitivity(mlp_simulator(tmp_path, random_weights(16, 8, 3), n=1))
    assert "standard errors are not known" in table.notes[0]
    assert (table.stderr[:, 1:] > 0).all()


def test_no_entries_need_no_time(simulator: Simulator) -> None:
    assert measure_entries(simulator, []).changes == {}
    assert len(measure_entries(simulator, single_changes(simulator)).changes) == 6
