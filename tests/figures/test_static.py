from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.errors import UnknownNameError
from mpsearch.figures.content import Report
from mpsearch.figures.static import FIGURES, write_figure
from tests.support.made_run import with_ranges


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_is_an_svg_and_the_same_bytes_each_time(
    figure: str, report: Report, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    report = with_ranges(report)
    write_figure(first, figure, report)
    write_figure(second, figure, report)
    assert b"<svg" in first.read_bytes()
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_suffix_says_the_format(
    suffix: str, magic: bytes, report: Report, tmp_path: Path
) -> None:
    path = tmp_path / f"front{suffix}"
    write_figure(path, "front", report)
    assert path.read_bytes().startswith(magic)


@pytest.mark.parametrize("figure", FIGURES)
def test_hostile_names_can_be_drawn(figure: str, hostile: Report, tmp_path: Path) -> None:
    write_figure(tmp_path / "a.svg", figure, with_ranges(hostile))
    assert b"<script" not in (tmp_path / "a.svg").read_bytes()


def test_unknown_figures_and_formats_name_the_choices(report: Report, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="front, sensitivity, plan, trust"):
        write_figure(tmp_path / "a.svg", "pie", report)
    with pytest.raises(UnknownNameError, match=r"\.svg, \.png, \.pdf"):
        write_figure(tmp_path / "a.gif", "front", report)
    with pytest.raises(UnknownNameError, match="no chosen plan"):
        write_figure(tmp_path / "a.svg", "plan", replace(report, chosen=None))
    with pytest.raises(UnknownNameError, match="mpsearch ranges"):
        write_figure(tmp_path / "a.svg", "ranges", report)
    assert list(tmp_path.iterdir()) == []
