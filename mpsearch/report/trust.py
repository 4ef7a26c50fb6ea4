"""How a self-test came out: predicted against measured losses of random plans and of those along a front."""

from mpsearch.report.values import Cell, Column, Grid, grid_of
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.sensitivity.shared.additivity import say_residual
from mpsearch.stats.digits import number
from mpsearch.stats.rank_correlation import Correlation, Ranking


def ranking_rows(found: SelfTest) -> list[list[str]]:
    """Return a row for each set of plans: its name, its size, and four correlations with intervals."""
    sets: list[tuple[str, Ranking | None]] = [
        ("all random plans", found.overall),
        ("not saturated", found.useful),
        ("along the front", found.front),
    ]
    return [
        [
            name,
            str(ranking.spearman.n),
            *(
                _said(c)
                for c in (
                    ranking.spearman,
                    ranking.spearman_best,
                    ranking.kendall,
                    ranking.kendall_best,
                )
            ),
        ]
        for name, ranking in sets
        if ranking is not None
    ]


RANKING_COLUMNS = ("plans", "number", "Spearman", "in the best 20 %", "Kendall", "in the best 20 %")


def ranking_grid(found: SelfTest) -> Grid:
    """Return :func:`ranking_rows` as a table of a page."""
    columns = [Column(RANKING_COLUMNS[0], kind="text"), *map(Column, RANKING_COLUMNS[1:])]
    return grid_of(columns, [[Cell(text) for text in row] for row in ranking_rows(found)])


def verdict(found: SelfTest, residual: float | None = None) -> str:
    """Return in plain sentences how far sums are off, and what was scored apart.

    Args:
        found: The self-test.
        residual: Share of the plans' loss that sums leave unexplained
            (:func:`mpsearch.sensitivity.shared.additivity.additive_residual`); None says nothing of it.
    """
    lost = (
        f" {found.overflowed} plans gave NaN or Inf and were left out." if found.overflowed else ""
    )
    additive = f"{say_residual(residual)} " if residual is not None else ""
    return (
        f"{additive}Half of the plans that are not saturated lose more than {number(found.ratio)} times what "
        f"the table adds up to. {int(found.saturated.sum())} of {len(found.measured)} plans are saturated: "
        f"they lose more than half of what the lowest precision everywhere does.{lost}"
    )


def _said(found: Correlation) -> str:
    if found.n < 3:
        return "–"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})".replace("-", "−")
