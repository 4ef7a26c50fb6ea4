"""Self-test: how well a table orders plans that were measured."""

from contextlib import suppress

import numpy as np

from mpsearch.errors import NumericsError
from mpsearch.problem.tables import Progress, Table
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.sensitivity.shared.entries import predict
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Bools, Ints
from mpsearch.stats.rank_correlation import Ranking, rank_agreement, saturated

CONCENTRATION = 0.3


def self_test(
    simulator: Simulator,
    table: Table,
    *,
    n_plans: int = 100,
    front: Ints | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SelfTest:
    """Measure plans and compare them with what ``table`` predicts.

    Args:
        simulator: Measures; what it has measured before is not measured again.
        table: What is tested.
        n_plans: Random plans to measure (see :func:`draw_plans`).
        front: [P, G] plans along a front to measure as well.
        seed: Seed of the plans and of the intervals' bootstrap.
        progress: Told the plans that are done.
    """
    plans = draw_plans(simulator.allowed & table.allowed, n_plans, seed=seed)
    along = np.zeros(len(plans), np.bool_)
    if front is not None and len(front):
        plans = np.concatenate([plans, front])
        along = np.arange(len(plans)) >= n_plans
    simulator.announce(plans)
    means, stderrs = np.full(len(plans), np.nan), np.zeros(len(plans))
    for i, plan in enumerate(plans):
        if progress is not None:
            progress(i, len(plans), "measuring plans")
        with suppress(NumericsError):
            means[i], stderrs[i] = simulator.loss(plan)
    finite = np.isfinite(means)
    plans, means, stderrs, along = plans[finite], means[finite], stderrs[finite], along[finite]
    top = ceiling(simulator)
    predicted = predict(table, plans)
    high = saturated(means, top)
    useful = ~along & ~high
    kept = useful & (predicted > 0)
    if progress is not None:
        progress(len(finite), len(finite), "plans measured")

    def agreement(some: Bools) -> Ranking:
        return rank_agreement(predicted[some], means[some], seed=seed)

    return SelfTest(
        plans,
        predicted,
        means,
        stderrs,
        along,
        top,
        high,
        int((~finite).sum()),
        agreement(~along),
        agreement(useful),
        agreement(along) if along.any() else None,
        float(np.median(means[kept] / predicted[kept])) if kept.any() else 1.0,
    )


def draw_plans(
    allowed: Bools, n_plans: int, *, seed: int = 0, concentration: float = CONCENTRATION
) -> Ints:
    """Return [P, G] random plans: scheme probabilities from a Dirichlet, one draw a plan.

    A low concentration makes plans that are mostly one or two schemes, so that the plans' losses span
    what a front spans; independent uniform choices would all have about one loss.

    Args:
        allowed: [G, S] what each group may take.
        n_plans: Plans to draw.
        seed: Seed of the draws.
        concentration: Parameter of the symmetric Dirichlet.
    """
    rng = np.random.default_rng([seed, 7919])
    n_schemes = allowed.shape[1]
    plans = np.zeros((n_plans, len(allowed)), np.int64)
    for plan in plans:
        weights = np.maximum(rng.dirichlet(np.full(n_schemes, concentration)), 1e-9)
        chances = np.where(allowed, weights, 0.0).cumsum(axis=1)
        draws = rng.random(len(allowed)) * chances[:, -1]
        plan[:] = (chances <= draws[:, None]).sum(axis=1)
    return plans


def ceiling(simulator: Simulator) -> float:
    """Return the largest loss of one scheme wherever it is allowed, the base elsewhere."""
    found = [0.0]
    for plan in uniform_plans(simulator):
        with suppress(NumericsError):
            found.append(simulator.loss(plan).mean)
    return max(found)


def uniform_plans(simulator: Simulator) -> Ints:
    """Return [S, G]: each scheme wherever it is allowed, the base elsewhere."""
    base = simulator.space.index(simulator.space.base)
    schemes = np.arange(simulator.allowed.shape[1])[:, None]
    return np.where(simulator.allowed.T, schemes, base).astype(np.int64)
