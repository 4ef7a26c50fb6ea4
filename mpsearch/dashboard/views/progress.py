"""Progress: what a run has found for what it spent, and what it is at."""

from datetime import UTC, datetime
from typing import Any

from dash import Dash, Input, Output, ctx, html
from dash.exceptions import PreventUpdate

from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown
from mpsearch.dashboard.parts import blank, figure, themed, view
from mpsearch.figures.progress import hypervolume_curve, progress_figure, stages_figure
from mpsearch.runs.lock import find_holder
from mpsearch.runs.log import read_events

NAME, TITLE = "progress", "Progress"


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "How the run goes",
        "Read from the run's folder every two seconds; a run that another process works on is followed.",
        html.Dl(id="progress-facts"),
        html.Div(figure("progress-graph", "Hypervolume by evaluations spent"), id="progress-curve"),
        html.P(id="progress-none", className="note"),
        figure("progress-stages", "Seconds that each stage took"),
    )


def register(app: Dash, runs: Runs) -> None:
    """Make the view answer."""

    @app.callback(
        Output("progress-facts", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("tick", "n_intervals"),
    )
    def tell(view: str, key: str, version: str, tick: int) -> Any:
        shown = runs.read(key or "") if view == NAME else None
        only_time = list(ctx.triggered_prop_ids) == ["tick.n_intervals"]
        if shown is None or shown.run is None or (only_time and shown.state != "running"):
            raise PreventUpdate
        facts = facts_of(shown).items()
        return [part for name, value in facts for part in (html.Dt(name), html.Dd(value))]

    @app.callback(
        Output("progress-missing", "children"),
        Output("progress-body", "hidden"),
        Output("progress-graph", "figure"),
        Output("progress-graph-words", "children"),
        Output("progress-curve", "hidden"),
        Output("progress-none", "children"),
        Output("progress-stages", "figure"),
        Output("progress-stages-words", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("screen", "data"),
    )
    def draw(view: str, key: str, version: str, screen: Any) -> Any:
        if view != NAME:
            raise PreventUpdate
        shown = runs.read(key or "")
        missing = lacks(shown)
        if missing or shown is None or shown.run is None:
            return missing, True, blank(), "", True, "", blank(), ""
        curve = hypervolume_curve(shown.front) if shown.front is not None else []
        drawn, words, none = blank(), "", ""
        if curve and shown.front is not None:
            drawn = themed(progress_figure(shown.front), screen)
            spent = next(spent for spent, share in curve if share >= 0.9)
            words = f"90 % of the last hypervolume was reached after {spent:.0f} of {curve[-1][0]:.0f} evaluations."
        else:
            none = "This method keeps no history of its front: its points are shown under Front as they arrive."
        seconds = {n: s.seconds for n, s in shown.run.record.stages.items() if s.seconds > 0}
        stages = themed(stages_figure(seconds), screen)
        said = (
            "; ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
            or "No stage is done."
        )
        return "", False, drawn, words, not curve, none, stages, said


def facts_of(shown: Shown) -> dict[str, str]:
    """Return what is known of how a run goes."""
    assert shown.run is not None
    record, job = shown.run.record, shown.run.job
    waiting = sum(plan.waits for plan in shown.wishes.plans)
    facts = {
        "state": shown.state,
        "model": job.model,
        "device": f"{job.device}, batch {job.batch}",
        "measured so far": f"{shown.spent} whole plans, on {record.samples} samples",
        "works on it": _say_holder(shown),
        "ended with": shown.status.said if shown.status is not None else "",
        "stages done": ", ".join(record.stages) or "none",
        "computed on": ", ".join(f"{k} {v}" for k, v in record.fingerprint.items()),
        "took": f"{record.seconds:.0f} s" if record.seconds else "",
        "asked for": f"{waiting} plans wait to be measured" if waiting else "",
    }
    return {name: value for name, value in facts.items() if value}


def _say_holder(shown: Shown) -> str:
    """Who works on a run, at what, and about how long that still takes."""
    holder = find_holder(shown.path)
    if holder is None:
        return ""
    said = holder.describe()
    if not holder.stage or not holder.total:
        return said
    begun = [e for e in read_events(shown.path) if e.get("event") in ("begin", "stage")]
    said += f"; at {holder.stage}: {holder.done} of {holder.total}"
    try:
        spent = (datetime.now(UTC) - datetime.fromisoformat(begun[-1]["time"])).total_seconds()
    except (IndexError, KeyError, ValueError, TypeError):
        return said
    left = spent * (holder.total - holder.done) / holder.done if holder.done else 0.0
    return f"{said}, about {left:.0f} s left of this stage" if left else said
