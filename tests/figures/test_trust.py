"""The page of a self-test: every plan is drawn once, saturated ones apart, and every correlation is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpsearch.figures.content import Report
from mpsearch.figures.trust import self_test_figure
from mpsearch.report.page import render_report
from mpsearch.report.sensitivity_page import write_sensitivity
from mpsearch.report.trust import ranking_grid, ranking_rows, verdict
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.stats.rank_correlation import rank_agreement


@pytest.fixture
def found() -> SelfTest:
    rng = np.random.default_rng(0)
    predicted = rng.lognormal(0, 1, 60)
    measured = predicted * rng.lognormal(0.2, 0.3, 60)
    along = np.arange(60) >= 50
    high = (measured > 3) & ~along
    ranking = rank_agreement(predicted[~along], measured[~along])
    return SelfTest(
        np.zeros((60, 4), np.int64), predicted, measured, 0.1 * measured, along, 6.0, high, 2,
        ranking, rank_agreement(predicted[~along & ~high], measured[~along & ~high]),
        rank_agreement(predicted[along], measured[along]), 1.2,
    )  # fmt: skip


def test_every_plan_is_drawn_once_with_its_error(found: SelfTest) -> None:
    traces = {trace.name: trace for trace in self_test_figure(found, unit="nats").data}
    random = ~found.along_front
    assert len(traces["random plans"].x) == (random & ~found.saturated).sum()
    assert len(traces["saturated"].x) == found.saturated.sum()
    assert len(traces["along the front"].x) == 10
    assert traces["along the front"].y == pytest.approx(found.measured[found.along_front])
    assert len(traces["random plans"].error_y.array) == len(traces["random plans"].x)


def test_the_axes_are_logarithmic_only_where_all_is_positive(found: SelfTest) -> None:
    assert self_test_figure(found).layout.xaxis.type == "log"
    found.measured[0] = -0.1
    assert self_test_figure(found).layout.xaxis.type == "linear"


def test_each_set_of_plans_has_its_correlations_with_intervals(found: SelfTest) -> None:
    rows = ranking_rows(found)
    assert [row[0] for row in rows] == ["all random plans", "not saturated", "along the front"]
    assert rows[0][1] == "50"
    c = found.overall.spearman
    assert rows[0][2] == f"{c.value:.2f} ({c.low:.2f} to {c.high:.2f})"
    assert "2 plans gave NaN or Inf" in verdict(found)
    assert [[cell.text for cell in row] for row in ranking_grid(found).rows] == rows


def test_the_residual_of_additivity_is_said_where_it_is_known(
    report: Report, found: SelfTest, tmp_path: Path
) -> None:
    assert "unexplained" not in verdict(found)
    assert "dding up leaves 41% of the plans' loss unexplained" in verdict(found, 0.41)
    same, other = replace(report, self_test=found), replace(report, self_test=found, unit="bits")
    assert "dding up leaves" in render_report(same)
    assert "dding up leaves" not in render_report(other)
    for unit, said in (("nats", True), ("bits", False)):
        write_sensitivity(tmp_path / "s.html", "x", [report.table], [found], unit)
        assert ("dding up leaves" in (tmp_path / "s.html").read_text()) is said


def test_a_report_shows_the_self_test_where_there_is_one(report: Report, found: SelfTest) -> None:
    assert "figure-selftest" not in render_report(report)
    text = render_report(replace(report, self_test=found))
    assert 'id="figure-selftest"' in text
    assert 'data-figure="figure-selftest"' in text
    assert "in the best 20 %" in text


def test_tables_alone_make_a_page(
    report: Report, hostile: Report, found: SelfTest, tmp_path: Path
) -> None:
    path = tmp_path / "s.html"
    write_sensitivity(path, "<b>x", [report.table, hostile.table], [found, None], "nats")
    text = path.read_text()
    assert "<b>x" not in text
    assert "<script>alert" not in text
    for name in ("table0", "table1", "test0"):
        assert f'id="figure-{name}"' in text
    assert "figure-test1" not in text
