"""Self-test: how well a table orders plans that were measured."""

from dataclasses import dataclass

import numpy as np

from mpsearch.execute.simulator import Simulator
from mpsearch.sensitivity.ranking import Ranking, predict, rank_agreement, saturated
from mpsearch.tables import Bools, Floats, Ints, Progress, Table

CONCENTRATION = 0.3


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Predictions beside measurements.

    Attributes:
        assignments: [P, G] plans that were measured.
        predicted: [P] what the table says.
        measured: [P] measured losses.
        stderr: [P] their standard errors.
        ceiling: Loss of the lowest precision everywhere, where losses stop to grow.
        saturated: [P]; above half of the ceiling.
        overall: Agreement over all plans.
        useful: Agreement over the plans that are not saturated: what a search will choose among.
        ratio: Median of measured over predicted losses of the plans that are not saturated.
    """

    assignments: Ints
    predicted: Floats
    measured: Floats
    stderr: Floats
    ceiling: float
    saturated: Bools
    overall: Ranking
    useful: Ranking
    ratio: float


def self_test(
    simulator: Simulator,
    table: Table,
    *,
    n_plans: int = 100,
    assignments: Ints | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SelfTest:
    """Measure plans and compare them with what ``table`` predicts.

    Args:
        simulator: Measures; what it has measured before is not measured again.
        table: What is tested.
        n_plans: Random plans to measure (see :func:`draw_plans`).
        assignments: [P, G] plans to measure instead, such as those along a front.
        seed: Seed of the plans and of the intervals' bootstrap.
        progress: Told the plans that are done.
    """
    plans = (
        draw_plans(simulator.allowed, n_plans, seed=seed) if assignments is None else assignments
    )
    means, stderrs = np.zeros(len(plans)), np.zeros(len(plans))
    for i, plan in enumerate(plans):
        if progress is not None:
            progress(i, len(plans), "measuring plans")
        means[i], stderrs[i] = simulator.loss(plan)
    top = ceiling(simulator)
    predicted = predict(table, plans)
    high = saturated(means, top)
    kept = ~high & (predicted > 0)
    ratio = float(np.median(means[kept] / predicted[kept])) if kept.any() else 1.0
    if progress is not None:
        progress(len(plans), len(plans), "plans measured")
    return SelfTest(
        plans,
        predicted,
        means,
        stderrs,
        top,
        high,
        rank_agreement(predicted, means, seed=seed),
        rank_agreement(predicted[~high], means[~high], seed=seed),
        ratio,
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
    return max((simulator.loss(plan).mean for plan in uniform_plans(simulator)), default=0.0)


def uniform_plans(simulator: Simulator) -> Ints:
    """Return [S, G]: each scheme wherever it is allowed, the base elsewhere."""
    base = simulator.space.index(simulator.space.base)
    schemes = np.arange(simulator.allowed.shape[1])[:, None]
    return np.where(simulator.allowed.T, schemes, base).astype(np.int64)
