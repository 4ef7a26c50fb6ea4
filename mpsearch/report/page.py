"""A run as one HTML file that needs nothing else: no network, no fonts, no other files.

Every string of the run is escaped where it enters the page; figures travel as JSON data blocks, and
a content security policy names the only two scripts that may run, by digest.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mpsearch.artifacts import write_text
from mpsearch.figures.comparison import compare, find_row, uniform_rows
from mpsearch.figures.content import Report
from mpsearch.figures.front import plot_front, trust_figure
from mpsearch.figures.layers import latency_figure, plan_figure, sensitivity_heatmap
from mpsearch.figures.plan_row import PlanRow
from mpsearch.figures.theme import template
from mpsearch.figures.trust import self_test_figure
from mpsearch.report.sections import (
    cards,
    coverage_section,
    esc,
    grouped,
    layers_table,
    lead,
    notes_section,
    plans_table,
    refused_table,
    run_section,
)
from mpsearch.report.trust import self_test_table
from mpsearch.sensitivity.shared.additivity import additive_residual

_FOLDER = Path(__file__).parent


def write_report(path: Path, report: Report) -> None:
    """Write ``report`` to ``path`` as one self-contained HTML file, atomically.

    The file runs offline: plotly.js is inlined once, nothing is loaded.
    """
    write_text(Path(path), render_report(report))


def render_report(report: Report) -> str:
    """Return the HTML text of ``report``."""
    figures: dict[str, go.Figure] = {}
    body = "\n".join(
        [
            _header(report),
            "<main>",
            _plans(report),
            _front(report, figures),
            _plan(report, figures),
            _sensitivity(report, figures),
            _trust(report, figures),
            coverage_section(report),
            run_section(report),
            notes_section(report),
            "</main>",
            "<footer>Predicted values are sums over tables; measured values come from running the "
            "quantised model. Latencies are modelled for the device, never timed here. "
            "This file needs no network.</footer>",
        ]
    )
    return render_page(report.title, body, figures)


def render_page(title: str, body: str, figures: Mapping[str, go.Figure]) -> str:
    """Return a page that runs offline.

    Args:
        title: Of the page; escaped here.
        body: Its HTML, strings of the run escaped.
        figures: Name to figure of what the body's plots show.
    """
    data = [_data_block(f"figure-{name}", _figure_value(fig)) for name, fig in figures.items()]
    data.append(_data_block("templates", {"light": template(), "dark": template(dark=True)}))
    # "</script" cannot stand in a script; in JavaScript "<\/script" means the same
    scripts = [
        text.replace("</script", "<\\/script")
        for text in (get_plotlyjs(), (_FOLDER / "page.js").read_text(encoding="utf-8"))
    ]
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="generator" content="mpsearch">',
            f"<title>{esc(title)} – mpsearch</title>",
            f"<style>\n{style}</style>\n</head>\n<body>",
            body,
            *data,
            *(f"<script>{text}</script>" for text in scripts),
            "</body>\n</html>\n",
        ]
    )


def _header(report: Report) -> str:
    places = {
        "plans": "Plans",
        "front": "Front",
        "plan": "Chosen plan",
        "sensitivity": "Sensitivity",
        "trust": "Trust",
        "coverage": "Coverage",
        "run": "How it was made",
    }
    links = "".join(f'<a href="#{key}">{text}</a>' for key, text in places.items())
    samples = "sample" if report.batch == 1 else "samples"
    return f"""<header>
<p class="eyebrow">Mixed-precision search</p>
<h1>{esc(report.title)}</h1>
<p class="lead">{lead(report)}</p>
<p class="run"><code>{esc(report.model)}</code> on <b>{esc(report.device)}</b>, batches of
{report.batch} {samples}, search space <b>{esc(report.space)}</b>: {len(report.graph.layers)} layers in
{len(report.graph.groups)} groups, {len(report.front.schemes)} schemes</p>
{cards(report)}
<nav aria-label="Sections">{links}</nav>
</header>"""


def _plans(report: Report) -> str:
    return f"""<section id="plans"><h2>Uniform and mixed plans</h2>
<p>A uniform plan runs every layer in one scheme where that is allowed, and in the base format elsewhere.</p>
{plans_table(report)}</section>"""


def _front(report: Report, figures: dict[str, go.Figure]) -> str:
    front = report.front
    measured = sum("loss" in p.measured for p in front.points)
    chosen = find_row(report)
    marked = [row for row in report.rows if row is not chosen]
    figures["front"] = plot_front(front, rows=marked, chosen=report.chosen, unit=report.unit)
    facts = [f"{grouped(len(front.points))} plans, none better than another in everything"]
    if front.method:
        facts.append(f"found by {esc(front.method)}")
    if front.certificate:
        facts.append(f"proven: {esc(front.certificate)}")
    facts.append(
        f"{measured} of them measured with the quantised model"
        if measured
        else "none of them measured: all of this is predicted"
    )
    return f"""<section id="front"><h2>What speed costs</h2>
<p>{"; ".join(facts)}.</p>
{
        plot_html(
            "front",
            "Loss against latency: predicted front, measured points, uniform plans",
            "Dotted: predicted, the sum of each layer's own loss. Red: measured with the whole model quantised, "
            "with its standard error; a thin line leads back to the prediction. Diamonds: plans to compare, hollow "
            "where only predicted. Hover shows how many groups take each scheme; a double click shows everything.",
        )
    }</section>"""


def _plan(report: Report, figures: dict[str, go.Figure]) -> str:
    if report.chosen is None:
        return """<section id="plan"><h2>The chosen plan</h2>
<p>Nobody chose a plan yet: <code>mpsearch plan choose</code> does.</p></section>"""
    assignment = report.chosen.assignment
    figures["plan"] = plan_figure(
        report.graph, report.front.schemes, assignment, costs=report.costs, table=report.table
    )
    comparison = compare(report)
    rival = comparison.uniform if comparison else _fastest(report)
    parts = [
        plot_html(
            "plan",
            "The chosen plan, layer by layer",
            "The same layers five times, in schedule order, at widths that stand for different things: where "
            "most parameters, operations, time and loss sit. Hatched tiles are sparse.",
        )
    ]
    if "latency_us" in report.costs.objectives:
        figures["latency"] = latency_figure(
            report.costs,
            assignment,
            uniform=rival.assignment if rival else None,
            uniform_label=rival.label if rival else "",
        )
        beside = f", beside {esc(rival.label)} (dashes)" if rival else ""
        parts.append("<h3>Where its time goes</h3>")
        parts.append(
            plot_html(
                "latency",
                "Modelled latency of each group",
                f"Modelled latency of each group in the chosen plan{beside}. The last bar is what is paid "
                "between layers: changes of mode and conversions.",
            )
        )
    parts.append(layers_table(report))
    return f"""<section id="plan"><h2>The chosen plan</h2>
<p>Each layer's scheme, as the plan file states it.</p>
{"".join(parts)}</section>"""


def _sensitivity(report: Report, figures: dict[str, go.Figure]) -> str:
    chosen = report.chosen.assignment if report.chosen is not None else None
    figures["sensitivity"] = sensitivity_heatmap(
        report.table, allowed=report.allowed, reasons=report.reasons, assignment=chosen
    )
    ring = " A ring marks the chosen scheme." if chosen is not None else ""
    return f"""<section id="sensitivity"><h2>How sensitive each layer is</h2>
<p>Predicted: {esc(report.table.metric)}, in {
        esc(report.table.unit)
    }, one group at one scheme, the rest
at full precision.</p>
{
        plot_html(
            "sensitivity",
            "Sensitivity of each group at each scheme",
            "Logarithmic colour, darker (in a dark page, brighter) is more fragile; zero or less is palest. Grey with a cross: not allowed, "
            f"the hover says why.{ring}",
        )
    }
{refused_table(report)}</section>"""


def _trust(report: Report, figures: dict[str, go.Figure]) -> str:
    head = '<section id="trust"><h2>How far the predictions can be trusted</h2>'
    tested = _self_test(report, figures)
    pairs = [p for p in report.front.points if "loss" in p.predicted and "loss" in p.measured]
    if not pairs:
        return f"{head}<p>No point of this front was measured, so nothing is known about it.</p>{tested}</section>"
    figures["trust"] = trust_figure(report.front, unit=report.unit)
    said = f"{len(pairs)} points of the front were measured."
    if report.rank_correlation is not None:
        rho, n = report.rank_correlation
        said = (
            f"Predictions rank the {n} measured points with a Spearman correlation of "
            f"<b>{rho:.2f}</b>".replace("-", "−")
            + " (1 is the right order)."
        )
    return f"""{head}
<p>{said}</p>
{
        plot_html(
            "trust",
            "Predicted against measured loss",
            "On the dashed line, a prediction is right; above it, layers harm each other more than alone. Order "
            "matters more than distance: the search only needs to know which plan is better.",
        )
    }{tested}</section>"""


def _self_test(report: Report, figures: dict[str, go.Figure]) -> str:
    """Nothing where no plans were drawn to test the table."""
    found = report.self_test
    if found is None:
        return ""
    residual = additive_residual(report.table, found, report.unit)
    figures["selftest"] = self_test_figure(found, unit=report.unit)
    caption = "Random plans, mostly of one or two schemes each, and plans along the front."
    return (
        "<h3>Random plans</h3>"
        + self_test_table(found, residual)
        + plot_html("selftest", "Predicted against measured loss of random plans", caption)
    )


def _fastest(report: Report) -> PlanRow | None:
    rows = [row for row in uniform_rows(report) if row.latency_us is not None]
    return min(rows, key=lambda row: row.latency_us or 0.0, default=None)


def plot_html(name: str, title: str, caption: str) -> str:
    """Return the place of figure ``name`` in a page's body."""
    return (
        f'<figure><div class="plot" data-figure="figure-{name}" role="img" aria-label="{esc(title)}">'
        f"</div><figcaption>{caption}</figcaption>"
        "<noscript><p>This figure needs JavaScript; the tables do not.</p></noscript></figure>"
    )


def _figure_value(figure: go.Figure) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(figure.to_json())
    value["layout"].pop("template", None)  # the page sets it, light or dark
    return value


def _data_block(name: str, value: Any) -> str:
    """A JSON block that no string inside can end: ``<``, ``>`` and ``&`` are escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
