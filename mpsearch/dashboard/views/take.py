"""Choose and export: the chosen plan as a download, a change by hand priced at once, and what to do next."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from mpsearch.dashboard.choice import figures_of
from mpsearch.dashboard.measuring import Measuring, zipped
from mpsearch.dashboard.missing import lacks
from mpsearch.dashboard.opened import Runs, Shown, key_of
from mpsearch.dashboard.parts import field, select, table_of, view
from mpsearch.errors import MpsearchError
from mpsearch.plan.files import weights_file
from mpsearch.registry import list_names
from mpsearch.report.next_steps import next_steps
from mpsearch.runs.watched.wishes import MOST, wish
from mpsearch.shown import shorten
from mpsearch.stats.digits import number, with_error

NAME, TITLE = "take", "Choose and export"


def layout() -> Any:
    """Return the view before anything is drawn."""
    return view(
        NAME,
        "Take a plan away",
        "The plan that is chosen above, as files for this browser to keep.",
        html.Div(id="take-files", className="takes"),
        html.Div(id="take-figures"),
        html.H3("What if"),
        html.P(
            "Change a layer's scheme by hand: loss and costs are predicted by the run's tables at once.",
            className="note",
        ),
        dcc.Store(id="edits", data={}),
        html.Div(
            [
                field("Layer", select("take-layer"), "long"),
                field("Scheme", select("take-scheme")),
                html.Button("Change", id="take-change", className="act", n_clicks=0),
                html.Button("Undo all", id="take-undo", className="act", n_clicks=0),
            ],
            className="row",
        ),
        html.P(id="take-refused", className="said", role="status"),
        html.Div(id="take-whatif"),
        html.Div(
            [html.Button("Measure this", id="take-measure", className="act", n_clicks=0)],
            className="takes",
        ),
        html.P(id="take-queued", className="said", role="status"),
        html.Div(id="take-queue"),
        html.H3("What next"),
        html.P("Run these where the model and its data lie.", className="note"),
        html.Dl(id="take-next"),
    )


def register(app: Dash, runs: Runs, measuring: Measuring) -> None:
    """Make the view answer."""

    @app.callback(
        Output("take-missing", "children"),
        Output("take-body", "hidden"),
        Output("take-files", "children"),
        Output("take-figures", "children"),
        Output("take-next", "children"),
        Input("view", "data"),
        Input("run", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
    )
    def draw(view: str, key: str, version: str, chosen: str) -> Any:
        if view != NAME:
            raise PreventUpdate
        shown = runs.read(key or "")
        missing = lacks(shown, "graph", "table", "chosen", chosen=chosen or "")
        if missing or shown is None:
            return missing, True, [], None, []
        figures = table_of(
            ["quantity", "#predicted", "#measured"], figures_of(shown.points[chosen], shown.unit)
        )
        return "", False, files_of(shown, chosen, measuring), figures, _next(shown, chosen)

    @app.callback(
        Output("take-layer", "options"),
        Output("take-scheme", "options"),
        Input("run", "value"),
        Input("version", "data"),
        Input("take-layer", "value"),
    )
    def offer(key: str, version: str, layer: str) -> Any:
        shown = runs.read(key or "")
        if shown is None or shown.problem is None:
            return [], []
        problem = shown.problem
        layers = [
            {"value": str(g), "label": f"{g + 1} {shorten(name, 80)}"}
            for g, name in enumerate(problem.groups)
        ]
        g = int(layer) if layer and str(layer).isdigit() and int(layer) < len(layers) else None
        schemes = [
            {
                "value": str(s),
                "label": name if g is None or problem.allowed[g, s] else f"{name} (not allowed)",
            }
            for s, name in enumerate(problem.schemes)
        ]
        return layers, schemes

    @app.callback(
        Output("edits", "data"),
        Output("take-refused", "children"),
        Input("take-change", "n_clicks"),
        Input("take-undo", "n_clicks"),
        Input("chosen", "data"),
        Input("run", "value"),
        State("take-layer", "value"),
        State("take-scheme", "value"),
        State("edits", "data"),
        prevent_initial_call=True,
    )
    def change(*given: Any) -> Any:
        _, _, chosen, key, layer, scheme, edits = given
        shown = runs.read(key or "")
        if ctx.triggered_id != "take-change" or shown is None or shown.problem is None:
            return {}, ""
        if layer is None or scheme is None:
            return no_update, "Choose a layer and a scheme first."
        return edited(shown, chosen or "", edits or {}, str(layer), str(scheme))

    @app.callback(
        Output("take-whatif", "children"),
        Output("take-measure", "disabled"),
        Input("edits", "data"),
        Input("chosen", "data"),
        Input("version", "data"),
        State("run", "value"),
    )
    def price(edits: Mapping[str, int], chosen: str, version: str, key: str) -> Any:
        shown = runs.read(key or "")
        if shown is None or chosen not in shown.points or shown.problem is None:
            return None, True
        if not edits:
            measured = bool(shown.points[chosen].measured)
            return html.P("Nothing is changed yet.", className="note"), measured
        return whatif(shown, chosen, edits), False

    @app.callback(
        Output("take-queued", "children"),
        Input("take-measure", "n_clicks"),
        State("edits", "data"),
        State("chosen", "data"),
        State("run", "value"),
        prevent_initial_call=True,
    )
    def queue(clicks: int, edits: Mapping[str, int], chosen: str, key: str) -> Any:
        shown = runs.read(key or "")
        if not clicks or shown is None or chosen not in shown.points:
            raise PreventUpdate
        return _queue(shown, changed(shown, chosen, edits or {}), measuring)

    @app.callback(
        Output("take-queue", "children"),
        Input("version", "data"),
        Input("take-queued", "children"),
        State("run", "value"),
    )
    def waiting(version: str, queued: str, key: str) -> Any:
        shown = runs.read(key or "")
        if shown is None or not shown.wishes.plans:
            return None
        rows = [
            [
                _said_mix(shown, plan.assignment),
                with_error(plan.loss) if plan.loss else "–",
                "waits" if plan.waits else plan.trouble or "measured: see the front",
            ]
            for plan in shown.wishes.plans
        ]
        return table_of(["asked for", "#measured loss", "state"], rows)


def changed(shown: Shown, chosen: str, edits: Mapping[str, int]) -> tuple[int, ...]:
    """Return the chosen assignment [G] with changes by hand."""
    assignment = list(shown.points[chosen].assignment)
    for group, scheme in edits.items():
        if str(group).isdigit() and int(group) < len(assignment):
            assignment[int(group)] = int(scheme)
    return tuple(assignment)


def edited(
    shown: Shown, chosen: str, edits: Mapping[str, int], layer: str, scheme: str
) -> tuple[Any, str]:
    """Return the changes with one more, or why it may not be made."""
    assert shown.problem is not None
    if not (layer.isdigit() and scheme.isdigit()) or chosen not in shown.points:
        return no_update, "Choose a layer and a scheme of the lists."
    g, s = int(layer), int(scheme)
    if g >= shown.problem.n_groups or s >= shown.problem.n_schemes:
        return no_update, "Choose a layer and a scheme of the lists."
    if not shown.problem.allowed[g, s]:
        name, wanted = shown.problem.groups[g], shown.problem.schemes[s]
        why = shown.reasons.get((name, wanted), "not allowed")
        return no_update, f"{shorten(name, 80)} may not take {wanted}: {why}."
    kept = {**edits, layer: s}
    base = shown.points[chosen].assignment
    return {group: v for group, v in kept.items() if base[int(group)] != v}, ""


def whatif(shown: Shown, chosen: str, edits: Mapping[str, int]) -> Any:
    """Return what is predicted of the changed plan, beside the chosen one."""
    assignment = changed(shown, chosen, edits)
    before, after = shown.point(shown.points[chosen].assignment), shown.point(assignment)
    rows = []
    for (name, old, _), (_, new, _), quantity in zip(
        figures_of(before, shown.unit), figures_of(after, shown.unit), before.predicted, strict=True
    ):
        a, b = before.predicted[quantity].mean, after.predicted[quantity].mean
        share = f"{100 * (b / a - 1):+.2f} %".replace("-", "−") if a else number(b - a)
        rows.append([name, old, new, share])
    table = table_of(
        ["quantity", "#chosen", "#changed", "#change"], rows, "Predicted by the tables"
    )
    assert shown.problem is not None
    problem, base = shown.problem, shown.points[chosen].assignment
    list_ = [
        html.Li(
            f"{shorten(problem.groups[int(g)], 80)}: {problem.schemes[base[int(g)]]} → {problem.schemes[s]}"
        )
        for g, s in edits.items()
    ]
    found = shown.points.get(key_of(assignment))
    measured = found.measured.get("loss") if found is not None else None
    said = html.P(f"This plan was measured: loss {with_error(measured)}.") if measured else None
    return html.Div([html.Ul(list_), table, said])


def _queue(shown: Shown, assignment: tuple[int, ...], measuring: Measuring) -> str:
    known = shown.points.get(key_of(assignment))
    if known is not None and known.measured:
        return "This plan is measured already: choose it above."
    if shown.state == "running":
        return "The run is still going: ask again when it has ended."
    try:
        asked = wish(shown.path, assignment)
    except (MpsearchError, OSError) as error:
        return f"It could not be queued: {error}"
    if all(plan.assignment != assignment for plan in asked.plans):
        return f"The queue is full: {MOST} plans were asked for."
    if measuring.start(shown.path):
        return "Queued, and being measured now; it appears on the front when it is done."
    name = shorten(shown.name, 80)
    return f"Queued. `mpsearch measure {name} --model MODEL --data DATA` measures it, or start the dashboard with --model and --data."


def files_of(shown: Shown, key: str, measuring: Measuring) -> list[Any]:
    """Return the links by which the browser takes a plan's files."""
    name = shown.plans.get(key)
    if name is None:
        return [
            html.P(
                "This point is only predicted: it has no plan yet, since a plan holds calibrated ranges. Measure it below, "
                "then its plan can be taken.",
                className="note",
            )
        ]
    links = [_link("plan.json", f"/files/{shown.key}/{key}/plan")]
    if weights_file(shown.path / "plans" / name).is_file():
        links.append(_link("its weights", f"/files/{shown.key}/{key}/weights"))
        links.append(_link("both as zip", f"/files/{shown.key}/{key}/zip"))
    if (shown.path / "export" / "export.json").is_file():
        links.append(_link("the run's export as zip", f"/files/{shown.key}/{key}/exported"))
    if measuring.model is not None:
        links += [
            _link(f"export for {target}", f"/files/{shown.key}/{key}/export-{target}")
            for target in list_names("exporters")
        ]
    return links


def _link(text: str, href: str) -> Any:
    return html.A(f"Download {text}", href=href, className="act", download="")


def _next(shown: Shown, key: str) -> list[Any]:
    assert shown.run is not None
    job, name = shown.run.job, shown.plans.get(key, "")
    steps = next_steps(shown.name, f"plans/{name}" if name else "", job.model, job.data)
    return [part for s in steps for part in (html.Dt(s.why), html.Dd(html.Code(s.command)))]


def _said_mix(shown: Shown, assignment: Sequence[int]) -> str:
    names = shown.table.schemes if shown.table is not None else ()
    return ", ".join(
        f"{list(assignment).count(s)} {name}" for s, name in enumerate(names) if s in assignment
    )


def serve_files(server: Any, runs: Runs, measuring: Measuring) -> None:
    """Serve downloads: of plans that a run has, by the names that the page gives them."""
    from flask import Response, abort, send_file

    @server.get("/files/<run>/<key>/<kind>")
    def send(run: str, key: str, kind: str) -> Any:
        shown = runs.read(run)
        name = shown.plans.get(key) if shown is not None and shown.state != "damaged" else None
        if shown is None or name is None:
            return abort(404)
        plan = shown.path / "plans" / name
        if kind in ("plan", "weights"):
            path = plan if kind == "plan" else weights_file(plan)
            return _sent(path, path.name) if path.is_file() else abort(404)
        if kind == "exported" and (shown.path / "export" / "export.json").is_file():
            return _zip(zipped(shown.path / "export"), "export.zip")
        if kind == "zip":
            return _zip(_both(plan), f"{plan.stem}.zip")
        target = kind.removeprefix("export-")
        if kind.startswith("export-") and target in list_names("exporters"):
            try:
                return _zip(measuring.export(plan, target), f"{plan.stem}_{target}.zip")
            except MpsearchError as error:
                return Response(f"{error}\n", 409, mimetype="text/plain")
        return abort(404)

    def _sent(path: Path, name: str) -> Any:
        return send_file(path.resolve(), "application/octet-stream", True, name)

    def _zip(data: bytes, name: str) -> Any:
        return send_file(BytesIO(data), "application/zip", True, name)


def _both(plan: Path) -> bytes:
    """A plan and the weights beside it as one zip file."""
    import zipfile

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in (plan, weights_file(plan)):
            if path.is_file():
                archive.write(path, path.name)
    return buffer.getvalue()
