"""What a self-test found, as a value and as a file; reading it needs neither torch nor a simulator."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.stats.estimates import Bools, Floats, Ints
from mpsearch.stats.rank_correlation import Correlation, Ranking


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
