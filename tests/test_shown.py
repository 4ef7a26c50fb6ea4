"""What notebooks and terminals show of values: short, and no name of a stranger is more than text."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpsearch.figures.content import Report
from mpsearch.runs.run import open_run
from mpsearch.shown import html_table, say, shorten, spread
from tests.support.made_folder import plan_of, write_run

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</table><script>alert(2)</script>",
    "javascript:alert(3)",
    "a\N{RIGHT-TO-LEFT OVERRIDE}b\x1b[31m",
    "$\\href{javascript:alert(4)}{x}$",
    "n" * 10_000,
)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


def values(report: Report, folder: Path) -> list[object]:
    assert report.chosen is not None
    plan = plan_of(report, report.chosen)
    run = open_run(write_run(report, folder))
    return [report.front, report.table, report.costs, report.graph, plan, run]


def test_a_value_says_what_it_holds_in_one_line(report: Report, tmp_path: Path) -> None:
    lines = [repr(value) for value in values(report, tmp_path / "run")]
    assert all(len(line) < 600 and "\n" not in line and "array(" not in line for line in lines)
    front, table, costs, graph, plan, run = lines
    measured = sum(bool(point.measured) for point in report.front.points)
    assert f"{len(report.front.points)} points" in front
    assert f"{measured} measured" in front
    assert "perturbation in nats" in table
    assert "reference-npu" in costs
    assert "54 layers in 54 groups" in graph
    assert "measured loss" in plan
    assert "finished" in run


def test_names_of_strangers_are_text_in_a_notebook(
    make_report: Callable[..., Report], tmp_path: Path
) -> None:
    report = make_report(len(HOSTILE), names=HOSTILE)
    allowed = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    for value in values(report, tmp_path / "run"):
        text = value._repr_html_()  # type: ignore[attr-defined]  # all of them have one
        tags = Tags(text)
        assert tags.found <= allowed, type(value)
        assert tags.attributes <= {"scope", "colspan"}
        assert len(text) < 20_000
        for shown in (text, repr(value)):
            assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in shown
            assert "\x1b" not in shown
        assert "$" not in text


def test_long_tables_are_cut_and_say_so() -> None:
    text = html_table("t", ["a"], [["x"]] * 30, more=5)
    assert text.count("<td>x</td>") == 12
    assert "and 23 more" in text


def test_facts_that_say_nothing_are_left_out() -> None:
    assert say("Front", "7 points", "", "exact") == "<Front: 7 points, exact>"


@pytest.mark.parametrize("limit", [5, 12, 40])
def test_a_shortened_name_keeps_both_ends(limit: int) -> None:
    name = "backbone/stage1/block2/conv"
    short = shorten(name, limit)
    assert len(short) == min(limit, len(name))
    assert name.startswith(short.partition("…")[0])
    assert name.endswith(short.rpartition("…")[2])


@pytest.mark.parametrize(("count", "most"), [(0, 12), (5, 12), (100, 12)])
def test_spread_keeps_both_ends(count: int, most: int) -> None:
    found = spread(count, most)
    assert len(found) == min(count, most)
    assert found == sorted(set(found))
    if count:
        assert (found[0], found[-1]) == (0, count - 1)
