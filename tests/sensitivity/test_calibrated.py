from dataclasses import replace

import numpy as np
import pytest

from mpsearch.deadline import deadline_in
from mpsearch.errors import MetricError
from mpsearch.problem.tables import Table
from mpsearch.sensitivity.calibrated import choose_entries
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.shared.corrected_table import correct_by_plans, correct_entries
from mpsearch.sensitivity.shared.effort import suffix_shares
from mpsearch.sensitivity.shared.entries import predict
from mpsearch.sensitivity.shared.plan_draws import draw_useful_plans, weigh_entries
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.rank_correlation import rank_agreement
from tests.support.own_calls import scoring
from tests.support.small_models import SPARSE, mlp_simulator, random_weights

score = scoring("calibrated")
perturb = scoring("perturbation")
by_fisher = scoring("fisher")

KINDS = np.zeros(3, np.int64)


def synthetic(seed: int, *, groups: int = 40, law: float = 0.3) -> tuple[Table, np.ndarray]:
    """A prior that is a power law of the truth with an offset a scheme and log-normal scatter."""
    rng = np.random.default_rng(seed)
    truth = np.exp(rng.normal(-5, 2, (groups, 3)))
    offsets = np.array([0.0, 0.7, -0.5])
    prior = np.exp(0.9 * np.log(truth) + offsets + law * rng.standard_normal(truth.shape))
    truth[:, 0] = prior[:, 0] = 0
    names = tuple(f"g{i}" for i in range(groups))
    table = Table(
        "fisher",
        "nats",
        names,
        ("fp16", "fp8", "nvfp4"),
        prior,
        np.zeros_like(prior),
        np.ones_like(prior, np.bool_),
    )
    return table, truth


def corrected(seed: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    prior, truth = synthetic(seed)
    rng = np.random.default_rng([seed, 1])
    entries = np.ones_like(prior.allowed)
    entries[:, 0] = False
    known = entries & (rng.random(truth.shape) < share)
    errors = 0.1 * truth * known
    measured = (truth + errors * rng.standard_normal(truth.shape)) * known
    values, stderr = correct_entries(prior, measured, errors, known, entries, KINDS)
    return values, stderr, truth, known


def test_a_law_learnt_from_some_entries_corrects_the_others() -> None:
    prior, truth = synthetic(0)
    values, _, _, known = corrected(0, 0.4)
    rest = ~known & (truth > 0)

    def off(x: np.ndarray) -> float:
        return float(np.std(np.log(x[rest] / truth[rest])))

    assert off(values) < 0.8 * off(prior.values)
    assert (values[:, 0] == 0).all()


def test_error_bars_cover_the_truth_as_often_as_they_say() -> None:
    inside = []
    for seed in range(20):
        values, stderr, truth, _ = corrected(seed, 0.4)
        inside.append((np.abs(values - truth) < 1.96 * stderr)[:, 1:].mean())
    assert 0.88 <= np.mean(inside) <= 0.99


def test_what_is_measured_is_kept_with_its_own_error() -> None:
    prior, truth = synthetic(1)
    known = prior.values > 0.01
    errors = 0.2 * truth * known
    values, stderr = correct_entries(prior, truth * known, errors, known, prior.values > 0, KINDS)
    np.testing.assert_array_equal(values[known], truth[known])
    np.testing.assert_array_equal(stderr[known], errors[known])


def test_nothing_measured_leaves_the_prior() -> None:
    prior, _ = synthetic(2)
    none = np.zeros_like(prior.allowed)
    nothing = np.zeros_like(prior.values)
    values, _ = correct_entries(prior, nothing, nothing, none, prior.values > 0, KINDS)
    np.testing.assert_allclose(values, prior.values)


def by_plans(table: Table, plans: np.ndarray, losses: np.ndarray) -> np.ndarray:
    known = replace(table, details={"measured": (table.values > 0).astype(np.float64)})
    values, stderr = correct_by_plans(known, KINDS, plans, losses, 0.5 * float(losses.max()))
    assert (stderr >= np.abs(values - table.values)).all()
    return values


def test_plans_correct_what_sums_get_wrong() -> None:
    prior, _ = synthetic(3, law=0.0)
    rng = np.random.default_rng(3)
    plans = rng.integers(0, 3, (400, 40))
    truth = np.minimum(prior.values, 0.05) * rng.lognormal(0, 0.3, prior.values.shape)
    losses = truth[np.arange(40), plans].sum(axis=1)
    believed = replace(prior, values=np.minimum(prior.values, 0.05))
    values = by_plans(believed, plans[:300], losses[:300])
    held_out = values[np.arange(40), plans[300:]].sum(axis=1)
    before = rank_agreement(predict(believed, plans[300:]), losses[300:])
    after = rank_agreement(held_out, losses[300:])
    assert 1 - after.spearman.value < 0.5 * (1 - before.spearman.value)
    assert np.median(held_out / losses[300:]) == pytest.approx(1, abs=0.05)


def test_no_plans_change_nothing() -> None:
    prior, _ = synthetic(3)
    kept, stderr = correct_by_plans(prior, KINDS, np.zeros((0, 40), np.int64), np.zeros(0), 1.0)
    np.testing.assert_array_equal(kept, prior.values)
    np.testing.assert_array_equal(stderr, prior.stderr)


def test_an_entry_that_is_far_worse_alone_than_in_plans_is_found_out() -> None:
    prior, _ = synthetic(6, law=0.0)
    rng = np.random.default_rng(6)
    plans = rng.integers(0, 3, (120, 40))
    truth = np.minimum(prior.values, 0.05)
    losses = truth[np.arange(40), plans].sum(axis=1)
    believed = truth.copy()
    believed[7, 1] = 0.5 * losses.max()  # alone it is a disaster
    truth[7, 1] = 0.0
    losses = truth[np.arange(40), plans].sum(axis=1)
    values = by_plans(replace(prior, values=believed), plans, losses)
    assert values[7, 1] < 0.3 * believed[7, 1]


def test_the_entries_that_weigh_most_in_plans_are_measured_first() -> None:
    prior, _ = synthetic(4)
    entries = [(g, s) for g in range(40) for s in (1, 2)]
    plans = np.zeros((3, 40), np.int64)
    plans[0, :2], plans[1, 2], plans[2, 3] = 1, 2, 2
    weights = weigh_entries(prior, plans)
    held = prior.values[[0, 1], 1]
    np.testing.assert_allclose(weights[[0, 1], 1], (held / held.sum()) ** 2)
    np.testing.assert_allclose(weights[[2, 3], 2], 1)
    assert (weights > 0).sum() == 4
    shares = np.full(40, 0.5)
    shares[3] = 0.25
    assert choose_entries(weights, entries, shares, 0.75) == [(3, 2), (2, 2)]
    assert len(choose_entries(weights, entries, shares, 10.0)) in (20, 21)
    assert choose_entries(weights, entries, np.ones(40), 80.0) == entries


def test_an_entry_costs_what_it_executes_again(simulator: Simulator) -> None:
    flops = np.array([layer.flops for layer in simulator.graph.layers], np.float64)
    wanted = np.cumsum(flops[::-1])[::-1] / flops.sum()  # a chain: from the layer to the end
    np.testing.assert_allclose(suffix_shares(simulator.graph), wanted)


def test_plans_to_measure_are_of_use_and_no_two_the_same(simulator: Simulator) -> None:
    table = perturb(simulator)
    limit = float(np.median(table.values)) * 5
    plans = draw_useful_plans(table, simulator.space.schemes, None, 30, limit, 0)
    lenient = replace(table, values=np.minimum(table.values, limit / 2))
    assert (predict(lenient, plans) <= limit).all()
    assert len(np.unique(plans, axis=0)) == len(plans) >= 30


def test_the_first_plans_to_measure_are_at_all_levels_of_loss(simulator: Simulator) -> None:
    table = perturb(simulator)
    limit = float(table.values.sum(axis=0).max())
    plans = draw_useful_plans(table, simulator.space.schemes, None, 12, limit, 0)
    many, few = predict(table, plans), predict(table, plans[:12])
    assert few.min() < np.quantile(many, 0.1)
    assert few.max() > np.quantile(many, 0.9)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    weights = random_weights(20, 20, 20, 20, 20, 20, 20, 6)
    return mlp_simulator(tmp_path_factory.mktemp("deep"), weights, schemes=SPARSE, n=48)


def test_a_budget_is_kept_and_a_full_one_measures_every_entry(simulator: Simulator) -> None:
    prior = by_fisher(simulator).cost_plans
    some, full = score(simulator, budget=12), score(simulator, budget=60)
    assert some.cost_plans <= prior + 12
    assert 4 <= some.details["measured"].sum() < (simulator.allowed[:, 1:]).sum()
    assert full.details["measured"].sum() == (simulator.allowed[:, 1:]).sum()
    np.testing.assert_array_equal(some.details["prior"], by_fisher(simulator).values)


def test_a_full_budget_stays_near_what_was_measured(simulator: Simulator) -> None:
    entries = int(simulator.allowed[:, 1:].sum())
    truth = perturb(simulator).values
    found = score(simulator, budget=entries + 1).values
    kept = truth > 0
    assert np.abs(np.log(found[kept] / truth[kept])).mean() < 0.3


def test_no_entry_is_told_worse_than_half_of_the_worst_plan(simulator: Simulator) -> None:
    schemes = np.arange(simulator.allowed.shape[1])[:, None]
    uniform = np.where(simulator.allowed.T, schemes, 0)
    worst = max(simulator.loss(plan).mean for plan in uniform)
    table = score(simulator)
    assert 0 < table.values.max() <= 0.5 * worst + 1e-12


def test_a_full_budget_measures_all_entries_and_plans(simulator: Simulator) -> None:
    entries = int(simulator.allowed[:, 1:].sum())
    table = score_sensitivity(simulator, metric="calibrated", budget="full")
    assert table.details["measured"].sum() == entries
    assert entries < table.cost_plans <= 2 * entries
    with pytest.raises(MetricError, match="a number of evaluations or 'full', got 'all'"):
        score_sensitivity(simulator, budget="all")


def test_a_time_budget_ends_plans_too(simulator: Simulator) -> None:
    table = score(
        simulator, budget=2 * int(simulator.allowed[:, 1:].sum()), deadline=deadline_in(1e-9)
    )
    assert any("time budget" in note for note in table.notes)


def test_where_all_entries_can_be_measured_no_prior_is_computed(simulator: Simulator) -> None:
    every = score(simulator, budget=40)
    measured = perturb(simulator).values
    np.testing.assert_allclose(
        every.details["alone"], np.minimum(measured, every.details["alone"].max())
    )
    assert "prior" not in every.details


def test_by_default_it_takes_less_than_three_times_what_fisher_does(simulator: Simulator) -> None:
    table = score(simulator)
    assert table.cost_plans < 3 * by_fisher(simulator).cost_plans
    assert "alone" in table.details  # plans were measured
