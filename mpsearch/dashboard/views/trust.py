"""Trust: how well predictions rank what was measured, what was not decided, what runtimes say."""

from math import isfinite
from typing import Any

from dash import Dash, Input, Output, html
from dash.exceptions import PreventUpdate

from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown
from mpsearch.dashboard.parts import blank, figure, grid, table_of, themed, view
from mpsearch.errors import ArtifactError
from mpsearch.figures.front import trust_figure
from mpsearch.figures.trust import self_test_figure
from mpsearch.figures.words import say_pairs
from mpsearch.report.sections import coverage_meters, undecided_table
from mpsearch.report.trust import ranking_grid, verdict
from mpsearch.runs.latencies import read_latencies
from mpsearch.search.measured.measure import rank_correlation
from mpsearch.sensitivity.shared.additivity import additive_residual
from mpsearch.shown import visible
from mpsearch.stats.digits import number
from mpsearch.verify.gate import GATE, read_gate

NAME, TITLE = "trust", "Trust"


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "How far the predictions can be trusted",
        "Order matters more than distance: a search only needs to know which plan is better.",
        html.P(id="trust-rank", className="note"),
        figure(
            "trust-graph",
            "Predicted against measured loss of the front's points",
            "On the dashed line a prediction is right; above it layers harm each other more than alone.",
        ),
        html.Div(
            [
                html.H3("Random plans"),
                html.Div(id="trust-table"),
                figure("trust-selftest", "Predicted against measured loss of random plans"),
            ],
            id="trust-tested",
        ),
        html.H3("Latency: predicted and profiled"),
        html.Div(id="trust-latency"),
        html.H3("The deployment gate"),
        html.Div(id="trust-gate"),
        html.H3("What is decided, and what is not"),
        html.Div(id="trust-coverage"),
    )


def register(app: Dash, runs: Runs) -> None:
    """Make the view answer."""

    @app.callback(
        Output("trust-missing", "children"),
        Output("trust-body", "hidden"),
        Output("trust-rank", "children"),
        Output("trust-graph", "figure"),
        Output("trust-graph-words", "children"),
        Output("trust-table", "children"),
        Output("trust-selftest", "figure"),
        Output("trust-selftest-words", "children"),
        Output("trust-tested", "hidden"),
        Output("trust-latency", "children"),
        Output("trust-gate", "children"),
        Output("trust-coverage", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("screen", "data"),
    )
    def draw(view: str, key: str, version: str, screen: Any) -> Any:
        if view != NAME:
            raise PreventUpdate
        shown = runs.read(key or "")
        missing = lacks(shown, "graph", "table", "points")
        if missing or shown is None or shown.front is None or shown.run is None:
            return missing, True, "", blank(), "", None, blank(), "", True, None, None, None
        drawn = themed(trust_figure(shown.front, unit=shown.unit), screen)
        rho, n = rank_correlation(shown.front)
        ranks = f" Predictions rank the {n} with a Spearman correlation of {number(rho, 2)}; 1 is the right order."
        words = say_pairs(shown.front) + (ranks if isfinite(rho) else "")
        found = shown.run.self_test
        table, test, said = None, blank(), ""
        if found is not None and shown.table is not None:
            table = grid(ranking_grid(found))
            test = themed(self_test_figure(found, unit=shown.unit), screen)
            said = verdict(found, additive_residual(shown.table, found, shown.unit))
        return (
            "",
            False,
            words,
            drawn,
            words,
            table,
            test,
            said,
            found is None,
            _latencies(shown),
            gates(shown),
            _coverage(shown),
        )


def _latencies(shown: Shown) -> Any:
    measured = read_latencies(shown.path)
    if not measured:
        return html.P(
            [
                "No export of this run was timed: ",
                html.Code("mpsearch profile EXPORT"),
                " does, and puts its figures here.",
            ],
            className="note",
        )
    rows = [
        [
            m.plan,
            m.runtime,
            number(m.predicted_us) if m.predicted_us is not None else "–",
            f"{number(m.latency_us)} ± {number(m.stderr_us, 2)}",
            f"{number(m.float_us)} ± {number(m.float_stderr_us, 2)}",
            m.device,
        ]
        for m in measured
    ]
    columns = [
        "plan",
        "runtime",
        "#predicted µs",
        "#profiled µs",
        "#fp32 profiled µs",
        "predicted for",
    ]
    return table_of(columns, rows)


def gates(shown: Shown) -> Any:
    """Return the checklist of each export that lies in the run."""
    tables = []
    for path in sorted(shown.path.glob(f"*/{GATE}")):
        where = visible(path.parent.name)[:80]
        try:
            gate = read_gate(path)
        except ArtifactError as error:
            tables.append(html.P(f"{where}: damaged: {error}"))
            continue
        rows = [
            [
                check.name,
                check.verdict,
                number(check.value) if check.value is not None else "–",
                number(check.limit) if check.limit is not None else "–",
                check.detail,
            ]
            for check in gate.checks
        ]
        said = "passed" if gate.ok else gate.verdict
        caption = f"{where} in {visible(gate.runtime)[:60]}: {visible(said)[:300]}"
        tables.append(
            table_of(["check", "verdict", "#found", "#limit", "what it is"], rows, caption)
        )
    if tables:
        return html.Div(tables)
    return html.P(
        [
            "No export in this run went through the gate: ",
            html.Code("mpsearch verify EXPORT … --gate"),
            " lists what it would fail.",
        ],
        className="note",
    )


def _coverage(shown: Shown) -> Any:
    if shown.report is None:
        return html.P("Said once the run has reached its end.", className="note")
    meters = [
        html.Div(
            [
                html.Div(f"{name}: {percent:.1f} % decided, {words}"),
                html.Div(html.I(style={"width": f"{percent:.2f}%"}), className="bar2"),
            ]
        )
        for name, percent, words in coverage_meters(shown.report)
    ]
    undecided = undecided_table(shown.report)
    rest = grid(undecided) if undecided.rows else html.P("Nothing else holds parameters.")
    return html.Div([*meters, rest], className="meter")
