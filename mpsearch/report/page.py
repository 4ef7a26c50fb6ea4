"""A run as one HTML file that needs nothing else: no network, no fonts, no other files.

Templates escape every string of the run; figures travel as JSON data blocks, and a content security
policy names the only two scripts that may run, by digest.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mpsearch.artifacts import write_text
from mpsearch.figures.comparison import compare, find_row, uniform_rows
from mpsearch.figures.content import Report
from mpsearch.figures.front import plot_front, trust_figure
from mpsearch.figures.layers import latency_figure, plan_figure, sensitivity_heatmap
from mpsearch.figures.plan_row import PlanRow
from mpsearch.figures.theme import template
from mpsearch.figures.trust import self_test_figure
from mpsearch.figures.words import say_report
from mpsearch.report.next_steps import next_steps
from mpsearch.report.sections import (
    cards,
    coverage_meters,
    fixed_groups,
    layers_table,
    lead,
    losses_table,
    plans_table,
    refused_table,
    run_facts,
    undecided_table,
)
from mpsearch.report.trust import ranking_grid, verdict
from mpsearch.report.values import grouped, some_names
from mpsearch.sensitivity.shared.additivity import additive_residual
from mpsearch.shown import visible

_FOLDER = Path(__file__).parent


def write_report(path: Path, report: Report) -> None:
    """Write ``report`` to ``path`` as one self-contained HTML file, atomically.

    The file runs offline: plotly.js is inlined once, nothing is loaded.
    """
    write_text(Path(path), render_report(report))


def render_report(report: Report) -> str:
    """Return the HTML text of ``report``."""
    front = report.front
    fixed = fixed_groups(report)
    rival = _rival(report)
    refused, refused_rows = refused_table(report)
    return render_page(
        "report.html.j2",
        report.title,
        _figures(report, rival),
        report=report,
        words=say_report(report),
        lead=lead(report),
        cards=cards(report),
        plans=plans_table(report),
        front_facts=_front_facts(report),
        measured=sum("loss" in point.measured for point in front.points),
        pairs=sum("loss" in p.predicted and "loss" in p.measured for p in front.points),
        rival=rival.label if rival else "",
        layers=layers_table(report),
        by_output=losses_table("Output", report.by_output),
        by_slice=losses_table("Slice of the data", report.by_slice),
        refused=refused,
        refused_rows=refused_rows,
        test=report.self_test,
        test_rows=ranking_grid(report.self_test) if report.self_test else None,
        test_verdict=verdict(
            report.self_test, additive_residual(report.table, report.self_test, report.unit)
        )
        if report.self_test
        else "",
        meters=coverage_meters(report),
        fixed=f"{len(fixed)} groups have one allowed scheme only, so that nothing was to decide: "
        f"{some_names(fixed)}."
        if fixed
        else "",
        undecided=undecided_table(report),
        facts=run_facts(report),
        steps=next_steps(report.run, report.plan, report.model, report.data) if report.run else (),
    )


def render_page(page: str, title: str, figures: Mapping[str, go.Figure], **values: Any) -> str:
    """Return a page that runs offline.

    Args:
        page: Name of its template.
        title: Of the page.
        figures: Name to figure of what the page's plots show.
        values: What the template says; strings are escaped there.
    """
    data = {f"figure-{name}": _json(_figure_value(figure)) for name, figure in figures.items()}
    data["templates"] = _json({"light": template(), "dark": template(dark=True)})
    # "</script" cannot stand in a script; in JavaScript "<\/script" means the same
    scripts = [
        text.replace("</script", "<\\/script")
        for text in (get_plotlyjs(), (_FOLDER / "page.js").read_text(encoding="utf-8"))
    ]
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts)
    return (
        _environment()
        .get_template(page)
        .render(
            title=title,
            policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'",
            style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
            data=data,
            scripts=[Markup(text) for text in scripts],
            **values,
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    made.filters["grouped"] = grouped
    return made


def _figures(report: Report, rival: PlanRow | None) -> dict[str, go.Figure]:
    """Every figure of the report, by name."""
    chosen = report.chosen.assignment if report.chosen is not None else None
    figures = {
        "front": plot_front(
            report.front, rows=_marked(report), chosen=report.chosen, unit=report.unit
        )
    }
    if chosen is not None:
        figures["plan"] = plan_figure(
            report.graph, report.front.schemes, chosen, costs=report.costs, table=report.table
        )
        if "latency_us" in report.costs.objectives:
            figures["latency"] = latency_figure(
                report.costs,
                chosen,
                uniform=rival.assignment if rival else None,
                uniform_label=rival.label if rival else "",
            )
    figures["sensitivity"] = sensitivity_heatmap(
        report.table, allowed=report.allowed, reasons=report.reasons, assignment=chosen
    )
    if any("loss" in p.predicted and "loss" in p.measured for p in report.front.points):
        figures["trust"] = trust_figure(report.front, unit=report.unit)
    if report.self_test is not None:
        figures["selftest"] = self_test_figure(report.self_test, unit=report.unit)
    return figures


def _marked(report: Report) -> list[PlanRow]:
    """The rows to mark on the front, each plan once, the chosen one left out: it has its own mark."""
    chosen = find_row(report)
    first = {row.assignment: row for row in reversed(report.rows)}
    kept = [row for row in first.values() if row.assignment is not None and row is not chosen]
    return kept[::-1]


def _front_facts(report: Report) -> list[str]:
    """What is said of the front, in parts of one sentence."""
    front = report.front
    measured = sum("loss" in p.measured for p in front.points)
    facts = [f"{grouped(len(front.points))} plans, none better than another in everything"]
    if front.method:
        facts.append(f"found by {front.method}")
    if front.certificate:
        facts.append(f"proven: {front.certificate}")
    facts.append(
        f"{measured} of them measured with the quantised model"
        if measured
        else "none of them measured: all of this is predicted"
    )
    return facts


def _rival(report: Report) -> PlanRow | None:
    """The uniform plan that the chosen one is drawn beside."""
    comparison = compare(report)
    if comparison is not None:
        return comparison.uniform
    rows = [row for row in uniform_rows(report) if row.latency_us is not None]
    return min(rows, key=lambda row: row.latency_us or 0.0, default=None)


def _figure_value(figure: go.Figure) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(figure.to_json())
    value["layout"].pop("template", None)  # the page sets it, light or dark
    return value


def _json(value: Any) -> Markup:
    """JSON that no string inside can end the block of: ``<``, ``>`` and ``&`` are escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
