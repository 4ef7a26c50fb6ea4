"""Self-test: how well a table orders plans that were measured."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import NumericsError
from mpsearch.problem.tables import Progress, Table
from mpsearch.sensitivity.shared.entries import predict
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Bools, Floats, Ints
from mpsearch.stats.rank_correlation import Correlation, Ranking, rank_agreement, saturated


class CorrelationContent(Content):
    """A rank correlation, its 95 % interval and the number of plans that it is over."""

    value: float
    low: float
    high: float
    n: int


class RankingContent(Content):
    """Rank correlations over a set of plans, and over the fifth of it that measured best."""

    spearman: CorrelationContent
    kendall: CorrelationContent
    spearman_best: CorrelationContent
    kendall_best: CorrelationContent


class SelfTestContent(Content):
    """What ``self_test.json`` holds; a list has one entry a plan.

    Attributes:
        assignments: Scheme index of each group.
        predicted: What the table says.
        measured: Measured losses, in the table's unit of loss.
        stderr: Their standard errors.
        along_front: Whether the plan is from a front; the others are random.
        saturated: Whether the loss is above half of ``ceiling``.
        ceiling: Loss of the lowest precision everywhere.
        overflowed: Plans that gave NaN or Inf and are in none of the lists.
        overall: Agreement over all random plans.
        useful: Agreement over those that are not saturated.
        front: Agreement along the front.
        ratio: Median of measured over predicted losses of the useful plans.
        additive_residual: Share of the useful plans' loss that the table's sums leave unexplained; None
            where the table is in another unit, or was not asked.
    """

    assignments: list[list[int]]
    predicted: list[float]
    measured: list[float]
    stderr: list[float]
    along_front: list[bool]
    saturated: list[bool]
    ceiling: float
    overflowed: int
    overall: RankingContent
    useful: RankingContent
    front: RankingContent | None
    ratio: float
    additive_residual: float | None = None


CONCENTRATION = 0.3


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Predictions beside measurements, random plans first, then those along a front.

    Attributes:
        assignments: [P, G] plans that were measured.
        predicted: [P] what the table says.
        measured: [P] measured losses.
        stderr: [P] their standard errors.
        along_front: [P]; False: drawn at random.
        ceiling: Loss of the lowest precision everywhere, where losses stop to grow.
        saturated: [P]; above half of the ceiling.
        overflowed: Plans that gave NaN or Inf and are left out.
        overall: Agreement over all random plans.
        useful: Agreement over random plans that are not saturated: what a search will choose among.
        front: Agreement along the front; None where no front was given.
        ratio: Median of measured over predicted losses of the random plans that are not saturated.
    """

    assignments: Ints
    predicted: Floats
    measured: Floats
    stderr: Floats
    along_front: Bools
    ceiling: float
    saturated: Bools
    overflowed: int
    overall: Ranking
    useful: Ranking
    front: Ranking | None
    ratio: float


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


def self_test_content(found: SelfTest, residual: float | None = None) -> SelfTestContent:
    """Return a self-test, and the residual of additivity where there is one, as plain values."""
    return SelfTestContent(
        assignments=found.assignments.tolist(),
        predicted=found.predicted.tolist(),
        measured=found.measured.tolist(),
        stderr=found.stderr.tolist(),
        along_front=found.along_front.tolist(),
        saturated=found.saturated.tolist(),
        ceiling=found.ceiling,
        overflowed=found.overflowed,
        overall=_content(found.overall),
        useful=_content(found.useful),
        front=None if found.front is None else _content(found.front),
        ratio=found.ratio,
        additive_residual=residual,
    )


def write_self_test(
    found: SelfTest,
    path: Path,
    *,
    residual: float | None = None,
    inputs: Mapping[str, str] = {},
) -> str:
    """Write ``found`` and the residual of additivity to ``path``, and return the file's digest."""
    return write_artifact(path, "self_test", self_test_content(found, residual), inputs=inputs)


def read_self_test(path: Path) -> SelfTest:
    """Read what :func:`write_self_test` wrote.

    Raises:
        ArtifactError: The file is missing, damaged or of another kind.
    """
    content = read_artifact(path, "self_test", SelfTestContent)
    n = len(content.assignments)
    return SelfTest(
        np.array(content.assignments, np.int64).reshape(n, -1),
        np.array(content.predicted, np.float64),
        np.array(content.measured, np.float64),
        np.array(content.stderr, np.float64),
        np.array(content.along_front, np.bool_),
        content.ceiling,
        np.array(content.saturated, np.bool_),
        content.overflowed,
        _ranking(content.overall),
        _ranking(content.useful),
        None if content.front is None else _ranking(content.front),
        content.ratio,
    )


def _content(ranking: Ranking) -> RankingContent:
    return RankingContent.model_validate(asdict(ranking))


def _ranking(content: RankingContent) -> Ranking:
    def one(found: CorrelationContent) -> Correlation:
        return Correlation(found.value, found.low, found.high, found.n)

    return Ranking(
        one(content.spearman),
        one(content.kendall),
        one(content.spearman_best),
        one(content.kendall_best),
    )
