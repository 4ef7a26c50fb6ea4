"""Names of strangers run no script: not in the dashboard, the report, a figure or a notebook."""

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.artifacts import write_artifact
from mpsearch.dashboard.app import NAMES
from mpsearch.dashboard.serve import Served
from mpsearch.figures.content import Report
from mpsearch.figures.front import plot_front
from mpsearch.figures.static import FIGURES, write_figure
from mpsearch.report.page import render_report
from mpsearch.runs.record import read_record
from mpsearch.runs.run import open_run
from tests.support.browser import Seen
from tests.support.made_folder import write_run
from tests.support.made_run import with_ranges

BAD = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "javascript:alert(3)",
    "<a href='javascript:alert(4)'>x</a>",
    "a\N{RIGHT-TO-LEFT OVERRIDE}b\N{RIGHT-TO-LEFT MARK}",
    "$\\href{javascript:alert(5)}{x}$ {{alert(6)}}",
    "<svg onload=alert(7)>",
    "'\"`><script>alert(8)</script>" + "n" * 10_000,
)
"""One in every place that a name can stand."""


@pytest.fixture(scope="module")
def report(make_report: Callable[..., Report]) -> Report:
    made = make_report(len(BAD), names=BAD)
    worst = BAD[1]
    layers = tuple(
        replace(layer, role=BAD[i % 4], op_type=BAD[(i + 1) % 4], fqn=worst)
        for i, layer in enumerate(made.graph.layers)
    )
    table = replace(
        made.table,
        metric=BAD[0],
        unit=BAD[1],
        reasons=dict.fromkeys(made.table.reasons, BAD[0]),
        notes=BAD,
        details={BAD[0]: made.table.values},
    )
    return replace(
        with_ranges(replace(made, graph=replace(made.graph, layers=layers))),
        title=worst,
        model=f"{BAD[0]}.onnx",
        device=worst,
        space=worst,
        fingerprint={BAD[0]: BAD[1]},
        table=table,
        costs=replace(made.costs, device=worst),
        graph=replace(made.graph, name=f"{BAD[0]}.onnx", layers=layers),
        front=replace(made.front, method=BAD[0], certificate=BAD[1]),
        rows=tuple(
            replace(row, label=f"{row.label}{BAD[i % 4]}") for i, row in enumerate(made.rows)
        ),
        notes=BAD,
        facts={BAD[0]: BAD[3]},
        unit=BAD[1],
    )


@pytest.fixture(scope="module")
def run(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(report, tmp_path_factory.mktemp("bad") / "<img src=x onerror=alert(9)>")
    record = read_record(folder)
    changed = {"fingerprint": {BAD[0]: BAD[1]}, "versions": {BAD[0]: BAD[1]}}
    write_artifact(folder / "run.json", "run", record.model_copy(update=changed))
    return folder


def nothing_ran(seen: Seen) -> bool:
    return bool(seen.page.evaluate("window.ran === 0"))


def test_names_run_no_script_in_the_dashboard(
    run: Path, serve: Callable[..., Served], look: Callable[[str], Seen]
) -> None:
    seen = look(serve(run).link)
    for name in NAMES:
        seen.view(name)
        assert nothing_ran(seen), name
    page = seen.page
    assert page.locator("img[src=x], svg[onload], a[href^=javascript]").count() == 0
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page.locator("body").inner_text()
    assert seen.errors == []


def test_names_run_no_script_in_the_other_outputs(
    report: Report, run: Path, look: Callable[[str], Seen], tmp_path: Path
) -> None:
    pages = {"report.html": render_report(report)}
    shown = open_run(run)
    values = (shown, shown.front, shown.table, shown.costs, shown.graph, shown.plans["fast"])
    told = "".join(value._repr_html_() for value in values if value is not None)
    figure = plot_front(report.front, rows=report.rows, unit=report.unit).to_html()
    pages["notebook.html"] = f"<!doctype html><meta charset=utf-8>{told}"
    pages["figure.html"] = figure
    for name in FIGURES:
        write_figure(tmp_path / f"{name}.svg", name, report)
        svg = (tmp_path / f"{name}.svg").read_text()
        pages[f"{name}.html"] = f"<!doctype html><meta charset=utf-8>{svg.partition('?>')[2]}"
    seen = look("about:blank")
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
        seen.page.goto((tmp_path / name).as_uri())
        seen.page.wait_for_timeout(150)
        assert nothing_ran(seen), name
        assert seen.page.locator("img[src=x], svg[onload], a[href^=javascript]").count() == 0, name
    assert html.escape(BAD[0]) in pages["report.html"]
    assert seen.errors == []
