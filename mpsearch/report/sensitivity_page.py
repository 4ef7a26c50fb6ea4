"""Sensitivity tables alone as one HTML file, before anything is searched."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from mpsearch.artifacts import write_text
from mpsearch.figures.layers import sensitivity_heatmap
from mpsearch.figures.trust import self_test_figure
from mpsearch.problem.tables import Table
from mpsearch.report.page import render_page
from mpsearch.report.trust import ranking_grid, verdict
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
        tested = None
        if test is not None:
            figures[f"test{i}"] = self_test_figure(test, unit=unit)
            said = verdict(test, additive_residual(table, test, unit))
            tested = {"rows": ranking_grid(test), "verdict": said}
        sections.append((table, tested))
    write_text(path, render_page("sensitivity.html.j2", title, figures, sections=sections))
