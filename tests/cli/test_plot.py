"""``mpsearch plot``: a figure of a run folder, or one line that says why not."""

from pathlib import Path

import pytest

from mpsearch.figures.content import Report
from mpsearch.figures.static import FIGURES
from tests.support.command_line import Mpsearch
from tests.support.made_folder import write_run
from tests.support.made_run import with_ranges


@pytest.fixture
def run(report: Report, tmp_path: Path) -> Path:
    return write_run(with_ranges(report), tmp_path / "run")


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_drawn_from_the_run_alone(
    figure: str, run: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    result = mpsearch("plot", run, figure, "-o", tmp_path / "f.svg", "--json")
    assert result.code == 0, result.err
    assert result.json == {"file": "f.svg", "figure": figure}
    assert b"<svg" in (tmp_path / "f.svg").read_bytes()


@pytest.mark.parametrize(
    ("figure", "out", "said"),
    [
        ("pie", "f.svg", "front, sensitivity, plan, trust, cost, ranges"),
        ("front", "f.gif", ".svg, .png, .pdf"),
        ("front", "nowhere/f.svg", "its folder 'nowhere' must exist"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    figure: str, out: str, said: str, run: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    result = mpsearch("plot", run, figure, "-o", tmp_path / out)
    assert result.code == 1
    assert said in result.err
    assert result.err.count("\n") == 1


def test_a_run_without_an_end_cannot_be_drawn(
    report: Report, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = write_run(report, tmp_path / "run", finished=False)
    result = mpsearch("plot", run, "front", "-o", tmp_path / "f.svg")
    assert result.code == 1
    assert "reached its end" in result.err
