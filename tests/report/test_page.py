import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpsearch.figures.content import Report
from mpsearch.report.page import render_report, write_report
from mpsearch.stats.estimates import Estimate

SECTIONS = ("plans", "front", "plan", "sensitivity", "trust", "coverage", "run", "notes")
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """What a browser would find: every tag, every script, every visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.inside: str = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif self.inside != "style":
            self.texts.append(data)

    @property
    def code(self) -> list[str]:
        return [text for attributes, text in self.scripts if "type" not in attributes]

    @property
    def data(self) -> dict[str, object]:
        return {str(a["id"]): json.loads(text) for a, text in self.scripts if "type" in a}


def test_every_section_is_there(report: Report) -> None:
    page = Page(render_report(report))
    ids = {a.get("id") for tag, a in page.tags if tag == "section"}
    assert ids == set(SECTIONS)


def test_every_figure_has_its_data(report: Report) -> None:
    page = Page(render_report(report))
    wanted = {a["data-figure"] for tag, a in page.tags if a.get("class") == "plot"}
    assert wanted == {f"figure-{n}" for n in ("front", "plan", "latency", "sensitivity", "trust")}
    assert wanted | {"templates"} == set(page.data)


def test_nothing_is_loaded_from_anywhere(report: Report) -> None:
    page = Page(render_report(report))
    for _, attributes in page.tags:
        for name in LOADING & attributes.keys():
            assert (attributes[name] or "").startswith("#"), attributes
    style = Path("mpsearch/report/page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_policy_allows_exactly_the_scripts_of_the_page(report: Report) -> None:
    page = Page(render_report(report))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv")) or ""
    named = set(re.findall(r"'sha256-([^']+)'", policy))
    found = {
        base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in page.code
    }
    assert named == found
    assert len(page.code) == 2


def test_hostile_names_stay_text(hostile: Report, report: Report) -> None:
    page, plain = Page(render_report(hostile)), Page(render_report(report))
    assert page.code == plain.code  # no script came in
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}  # nor img or iframe
    handlers = [name for _, a in page.tags for name in a if name.startswith("on")]
    assert handlers == []
    assert any("</script><script>alert(1)</script>" in text for text in page.texts)


def test_hostile_names_are_no_markup_inside_figures(hostile: Report) -> None:
    page = Page(render_report(hostile))
    strings: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(page.data)
    assert any("alert(1)" in text for text in strings)
    for text in strings:
        assert not re.search(r"<(?!/?b>|br>)", text), text


def test_no_host_name_of_the_user_or_path_is_in_the_page(report: Report, tmp_path: Path) -> None:
    text = render_report(report)
    assert str(Path.home()) + "/" not in text or str(Path.home()) == "/"
    assert str(tmp_path) not in text


def test_the_headline_says_what_the_rows_say(report: Report) -> None:
    text = " ".join(Page(render_report(report)).texts)
    fp8 = next(r for r in report.rows if r.label == "uniform fp8")
    mixed = next(r for r in report.rows if r.label == "mixed")
    assert mixed.latency_us is not None
    assert fp8.latency_us is not None
    share = round(100 * (1 - mixed.latency_us / fp8.latency_us))
    assert f"{share} % faster" in text
    assert "uniform fp8" in text


def test_predicted_and_measured_losses_stand_in_their_own_columns(report: Report) -> None:
    text = render_report(report)
    assert "<th>Loss<small>predicted, nats</small></th>" in text
    assert "<th>Loss<small>measured, nats</small></th>" in text


def test_an_unmeasured_front_is_said_to_be_predicted(report: Report) -> None:
    points = tuple(replace(p, measured={}) for p in report.front.points)
    bare = replace(
        report,
        front=replace(report.front, points=points),
        rows=(),
        chosen=None,
        rank_correlation=None,
        notes=(),
    )
    text = " ".join(Page(render_report(bare)).texts)
    assert "all of this is predicted" in text
    assert "No point of this front was measured" in text
    assert "Nobody chose a plan yet" in text


def test_what_is_not_decided_or_allowed_is_listed_with_its_reason(report: Report) -> None:
    text = " ".join(Page(render_report(report)).texts)
    for item in report.graph.coverage.undecided:
        assert item.name in text
        assert item.reason in text
    assert "`channels % 4 == 0` must hold" in text


def test_the_file_is_written_whole_and_small(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, report)
    assert path.read_text(encoding="utf-8") == render_report(report)
    assert path.stat().st_size < 6_000_000
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_is_the_same_bytes_each_time(report: Report) -> None:
    assert render_report(report) == render_report(report)


def test_the_page_ends_with_the_commands_for_the_next_step(report: Report) -> None:
    named = replace(report, run="my run", plan="plans/fast.json", data="calib.npz")
    text = " ".join(Page(render_report(named)).texts)
    assert "mpsearch export 'my run/plans/fast.json' --model orientation.onnx" in text
    assert "mpsearch verify 'my run/exported' --model orientation.onnx --data calib.npz" in text


def test_a_uniform_plan_that_was_chosen_is_not_compared_with_itself(report: Report) -> None:
    fp8 = next(row for row in report.rows if row.label == "uniform fp8")
    assert report.chosen is not None
    assert fp8.assignment is not None
    again = replace(fp8, label="mixed, safe (= uniform fp8)")
    chosen = replace(
        report,
        chosen=replace(report.chosen, assignment=fp8.assignment),
        rows=(*report.rows, again),
    )
    text = " ".join(Page(render_report(chosen)).texts)
    said = text[text.index("The chosen plan is") :][:160]
    assert "uniform fp8, one scheme wherever it is allowed" in said
    assert said.count("fp8") == 1
    assert "As fast and as small" not in text


@pytest.mark.parametrize("n_layers", [1, 2, 300])
def test_any_number_of_layers_can_be_shown(make_report, n_layers: int) -> None:  # type: ignore[no-untyped-def]
    text = render_report(make_report(n_layers))
    assert len(text.encode()) < 6_000_000
    page = Page(text)
    assert set(page.data) >= {"figure-front", "figure-sensitivity", "figure-plan"}


def test_the_loss_is_shown_by_output_and_by_slice_the_largest_first(report: Report) -> None:
    assert "Where its loss comes from" not in render_report(report)
    outputs = {"boxes": Estimate(0.01, 0.001), "scores": Estimate(0.19, 0.01)}
    shown = replace(report, by_output=outputs, by_slice={"night": Estimate(0.1, 0.01)})
    words = " ".join(Page(render_report(shown)).texts)
    assert words.index("scores") < words.index("boxes")
    assert "1.9" in words  # times the mean of 0.1
    assert "Slice of the data" not in words  # there is but one
