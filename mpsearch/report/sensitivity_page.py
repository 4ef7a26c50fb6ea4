"""Sensitivity tables alone as one HTML file, before anything is searched."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from mpsearch.artifacts import write_text
from mpsearch.figures.layers import sensitivity_heatmap
from mpsearch.figures.trust import self_test_figure
from mpsearch.problem.tables import Table
from mpsearch.report.page import plot_html, render_page
from mpsearch.report.sections import esc
from mpsearch.report.trust import self_test_table
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.sensitivity.shared.additivity import additive_residual


def write_sensitivity(
    path: Path, title: str, tables: Sequence[Table], tests: Sequence[SelfTest | None], unit: str
) -> None:
    """Write a heat map for each table, with its self-test where there is one, as a page that runs offline.

    Args:
        path: The file.
        title: Its heading.
        tables: The tables.
        tests: [tables] their self-tests.
        unit: Unit of the measured loss.
    """
    figures: dict[str, go.Figure] = {}
    sections = []
    for i, (table, test) in enumerate(zip(tables, tests, strict=True)):
        figures[f"table{i}"] = sensitivity_heatmap(table)
        notes = "".join(f"<p>{esc(note)}</p>" for note in table.notes)
        caption = (
            "Logarithmic colour, darker is more fragile; zero or less is palest. Grey with a cross: "
            "not allowed, the hover says why."
        )
        drawn = plot_html(f"table{i}", f"Sensitivity by {table.metric}", caption)
        tested = ""
        if test is not None:
            figures[f"test{i}"] = self_test_figure(test, unit=unit)
            residual = additive_residual(table, test, unit)
            tested = self_test_table(test, residual) + plot_html(
                f"test{i}", "Predicted against measured loss", "Random plans and the front."
            )
        sections.append(
            f"<section><h2>{esc(table.metric)}</h2><p>In {esc(table.unit)}; it cost "
            f"{table.cost_plans:.0f} whole-model evaluations.</p>{notes}{drawn}{tested}</section>"
        )
    body = f"<header><h1>{esc(title)}</h1></header><main>{''.join(sections)}</main>"
    write_text(path, render_page(title, body, figures))
