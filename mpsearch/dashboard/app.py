"""The dashboard: one page, a view a section, and what holds them together."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update

from mpsearch.dashboard.choice import (
    LIMITS,
    Decision,
    best_within,
    first_key,
    given_limits,
    name_of,
    options_of,
)
from mpsearch.dashboard.guard import Guard, policy_of, protect
from mpsearch.dashboard.measuring import Measuring
from mpsearch.dashboard.opened import Runs, Shown
from mpsearch.dashboard.parts import field, select
from mpsearch.dashboard.views import compare, cost, front, plan, progress, sensitivity, take, trust
from mpsearch.figures.theme import plain_objective_title
from mpsearch.shown import shorten

LOG = logging.getLogger("mpsearch.dashboard")
VIEWS = (front, plan, sensitivity, trust, cost, progress, compare, take)
NAMES = [view.NAME for view in VIEWS]
_EVERY_MS = 2000


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard that can be served.

    Attributes:
        server: The WSGI application.
        guard: Who may talk to it.
    """

    server: Any
    guard: Guard


def make_dashboard(runs: Runs, port: int, measuring: Measuring | None = None) -> Dashboard:
    """Return the dashboard of ``runs``, to be served on ``port`` of this machine alone."""
    app = Dash(
        "mpsearch.dashboard",
        title="mpsearch",
        update_title=None,
        serve_locally=True,
        assets_folder=str(Path(__file__).parent / "assets"),
        suppress_callback_exceptions=False,
        add_log_handler=False,
        enable_mcp=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        index_string=_INDEX,
    )
    measuring = measuring or Measuring()
    app.layout = lambda: _page(runs)
    _register(app, runs)
    for view in VIEWS:
        if view is take:
            take.register(app, runs, measuring)
        else:
            view.register(app, runs)
    take.serve_files(app.server, runs, measuring)
    guard = Guard(port)
    protect(app.server, guard, policy_of(list(app.csp_hashes())))
    return Dashboard(app.server, guard)


_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def _page(runs: Runs) -> Any:
    """The page, with every view in it; the address says which one is seen."""
    options = _run_options(runs)
    links = [
        html.Li(html.A(view.TITLE, href=f"#{view.NAME}", id=f"link-{view.NAME}")) for view in VIEWS
    ]
    limits = [
        field(
            f"{plain_objective_title(name)} ≤",
            dcc.Input(id=f"limit-{name}", type="number", min=0, step="any", debounce=True),
        )
        for name in LIMITS
    ]
    return html.Div(
        [
            dcc.Location(id="place", refresh=False),
            dcc.Interval(id="tick", interval=_EVERY_MS),
            dcc.Store(id="screen"),
            dcc.Store(id="view"),
            dcc.Store(id="names", data=NAMES),
            dcc.Store(id="version"),
            dcc.Store(id="chosen", storage_type="memory"),
            dcc.Store(id="window"),
            html.Header(
                [
                    html.H1("mpsearch"),
                    field(
                        "Run",
                        select(
                            "run", options=options, value=options[0]["value"] if options else None
                        ),
                    ),
                    html.P(id="state", className="state", role="status"),
                ],
                className="top",
            ),
            html.Nav(html.Ul(links), **{"aria-label": "Views"}),
            html.Section(
                [
                    html.H2("Chosen plan"),
                    html.Div([field("Plan", select("pick"))], className="row"),
                    html.Details(
                        [
                            html.Summary("Limits: the best plan under them is chosen"),
                            html.Div(
                                [
                                    *limits,
                                    html.Button("Clear", id="clear", className="act", n_clicks=0),
                                    html.Button("Knee", id="knee", className="act", n_clicks=0),
                                ],
                                className="row",
                            ),
                        ],
                        open=True,
                    ),
                    html.P(id="decision", className="said", role="status"),
                ],
                className="bar",
                **{"aria-label": "Chosen plan"},
            ),
            html.Main([view.layout() for view in VIEWS]),
        ],
        className="page",
    )


def _run_options(runs: Runs) -> list[dict[str, str]]:
    return [
        {"value": shown.key, "label": f"{shorten(shown.name, 60)} · {shown.state}"}
        for shown in runs.all()
    ]


def _register(app: Dash, runs: Runs) -> None:
    app.clientside_callback(
        ClientsideFunction("mpsearch", "screen"),
        Output("screen", "data"),
        Input("place", "pathname"),
    )
    app.clientside_callback(
        ClientsideFunction("mpsearch", "view"),
        Output("view", "data"),
        *(Output(f"{name}-view", "hidden") for name in NAMES),
        *(Output(f"link-{name}", "aria-current") for name in NAMES),
        Input("place", "hash"),
        Input("names", "data"),
    )

    @app.callback(
        Output("version", "data"),
        Output("state", "children"),
        Output("state", "className"),
        Output("run", "options"),
        Input("tick", "n_intervals"),
        Input("run", "value"),
        State("version", "data"),
        State("state", "children"),
        State("run", "options"),
    )
    def follow(tick: int, key: str, before: str, state: str, options: Any) -> Any:
        shown = runs.read(key or "")
        found = _run_options(runs)
        if shown is None:
            return "", "no run", "state", found
        said = _state(shown)
        return (
            no_update if shown.version == before and ctx.triggered_id == "tick" else shown.version,
            no_update if said == state else said,
            f"state {shown.state}",
            no_update if found == options else found,
        )

    @app.callback(
        *(Output(f"limit-{name}", "value") for name in LIMITS),
        Input("clear", "n_clicks"),
        Input("run", "value"),
        prevent_initial_call=True,
    )
    def clear(clicks: int, key: str) -> Any:
        return [None] * len(LIMITS)

    @app.callback(
        Output("chosen", "data"),
        Output("decision", "children"),
        Output("pick", "options"),
        Output("pick", "value"),
        Input("run", "value"),
        Input("version", "data"),
        Input("pick", "value"),
        Input("front-graph", "clickData"),
        Input("knee", "n_clicks"),
        *(Input(f"limit-{name}", "value") for name in LIMITS),
        State("chosen", "data"),
    )
    def decide(
        key: str, version: str, pick: str, click: Mapping[str, Any], knee: int, *rest: Any
    ) -> Any:
        *limits, chosen = rest
        shown = runs.read(key or "")
        if shown is None or shown.state == "damaged" or not shown.points:
            return "", "There is no plan to choose yet.", [], None
        by = str(ctx.triggered_id or "")
        found = _decide(shown, by, pick, click, given_limits(limits), chosen)
        if not found.key and by not in ("version", "run", ""):
            return no_update, found.said, no_update, no_update
        now = found.key or chosen or ""
        said = no_update if by == "version" else found.said
        return (no_update if now == chosen else now), said, options_of(shown, now), now or None


def _decide(
    shown: Shown,
    by: str,
    pick: str,
    click: Mapping[str, Any],
    limits: Mapping[str, float],
    chosen: str,
) -> Decision:
    """What is chosen now that ``by`` was touched; no key keeps what was chosen before."""
    if by in ("pick", "front-graph"):
        wanted = pick if by == "pick" else front.clicked_key(click)
        by_hand = f"Chosen by hand: {name_of(shown, wanted)}" if wanted in shown.points else ""
        return Decision(wanted if by_hand else "", by_hand)
    if by == "knee" or (by.startswith("limit-") and limits):
        found = best_within(shown, limits, knee=by == "knee")
        said = f"{found.said[:1].upper()}{found.said[1:]}"
        return Decision(
            found.key, f"{said}: {name_of(shown, found.key)}" if found.key else f"{said}."
        )
    if chosen in shown.points and by != "run":
        return Decision(chosen, "")
    return Decision(first_key(shown), "")


def _state(shown: Shown) -> str:
    words = {
        "finished": "finished",
        "running": f"running, {shown.spent} measured so far",
        "interrupted": f"not finished, {shown.spent} measured so far",
        "damaged": "damaged",
    }
    return words[shown.state]
