"""The parts of a report that are text and tables, as HTML. Every string of the run is escaped."""

import html
from collections import defaultdict
from collections.abc import Sequence

from mpsearch.figures.comparison import compare, find_row
from mpsearch.figures.content import Report
from mpsearch.figures.plan_row import PlanRow, uniform_scheme
from mpsearch.figures.theme import number, scheme_colours, with_error
from mpsearch.graph.model import Undecided
from mpsearch.stats.estimates import Estimate

_MOST_ROWS = 40
_MOST_NAMES = 6


def esc(text: object) -> str:
    """Return ``text`` escaped for HTML text and attributes."""
    return html.escape(str(text), quote=True)


def lead(report: Report) -> str:
    """Return the sentence at the top."""
    comparison = compare(report)
    if comparison is not None:
        return f"The chosen plan is <b>{esc(_lower_first(comparison.sentence))}</b>."
    count = len(report.front.points)
    return f"A front of <b>{count} plans</b> from the most accurate to the fastest."


def cards(report: Report) -> str:
    """Return the headline figures."""
    shown = []
    comparison = compare(report)
    if comparison is not None:
        chosen, uniform = comparison.chosen, comparison.uniform
        if comparison.faster is not None:
            why = f"modelled {_us(chosen.latency_us)} a batch; {esc(uniform.label)} {_us(uniform.latency_us)}"
            shown.append(("Latency", _signed(comparison.faster), why))
        if comparison.smaller is not None:
            why = f"{_bytes(chosen.weight_bytes)}; {esc(uniform.label)} {_bytes(uniform.weight_bytes)}"
            shown.append(("Weights", _signed(comparison.smaller), why))
        if comparison.loss is not None and comparison.uniform_loss is not None:
            why = (
                f"± {number(comparison.loss.stderr, 2)}; {esc(uniform.label)} "
                f"{with_error(comparison.uniform_loss)}"
            )
            title = f"{comparison.word} loss".capitalize()
            shown.append((title, with_error(comparison.loss).split(" ± ")[0], why))
        for name, score in list(chosen.scores.items())[:2]:
            others = [
                f"{esc(row.label)} {number(row.scores[name].mean)}"
                for row in report.rows
                if name in row.scores and (row.assignment is None or row is uniform)
            ]
            why = f"± {number(score.stderr, 2)}; " + ", ".join(others)
            shown.append((f"Held-out {esc(_score_title(name))}", number(score.mean), why))
    elif (row := find_row(report)) is not None and row.latency_us is not None:
        shown.append(
            ("Modelled latency", _us(row.latency_us) or "–", "of the chosen plan, a batch")
        )
    row = find_row(report)
    if row is not None and row.effective_bits is not None:
        shown.append(("Effective bits", number(row.effective_bits), "a weight, scales included"))
    if report.rank_correlation is not None:
        rho, n = report.rank_correlation
        why = f"Spearman of predicted and measured loss, {n} plans"
        shown.append(("Predictions rank", f"{rho:.2f}".replace("-", "−"), why))
    boxes = "".join(
        f'<div class="card"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="why">{why}</div></div>'
        for name, value, why in shown
    )
    return f'<div class="cards">{boxes}</div>' if boxes else ""


def plans_table(report: Report) -> str:
    """Return the table of plans; columns that no row fills are left out."""
    if not report.rows:
        return "<p>No plans were compared.</p>"
    comparison = compare(report)
    against = comparison.uniform if comparison else None
    columns: list[tuple[str, list[str]]] = []

    def add(title: str, cells: Sequence[str | None]) -> None:
        if any(cell is not None for cell in cells):
            columns.append((title, [cell if cell is not None else "–" for cell in cells]))

    rows = report.rows
    add("Latency<small>modelled</small>", [_us(r.latency_us) for r in rows])
    if against is not None and against.latency_us:
        add(
            f"<small>against {esc(against.label)}</small>",
            [_change(r.latency_us, against.latency_us) if r is not against else None for r in rows],
        )
    add("Weights", [_bytes(r.weight_bytes) for r in rows])
    add(
        "Bits<small>effective</small>",
        [number(r.effective_bits) if r.effective_bits is not None else None for r in rows],
    )
    for word in ("predicted", "measured"):
        add(f"Loss<small>{word}</small>", [_estimate(_values(r, word).get("loss")) for r in rows])
    for name in dict.fromkeys(name for row in rows for name in row.scores):
        title = f"{esc(_score_title(name).capitalize() if name.islower() and len(name) > 4 else _score_title(name))}"
        add(f"{title}<small>held-out</small>", [_estimate(r.scores.get(name)) for r in rows])
    chosen = find_row(report)
    head = "".join(f"<th>{title}</th>" for title, _ in columns)
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td>{cell[i]}</td>" for _, cell in columns)
        mark = ' class="chosen"' if row is chosen else ""
        kept = _kept(report, row)
        lines.append(f"<tr{mark}><td>{esc(row.label)}{kept}</td>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th>Plan</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def layers_table(report: Report) -> str:
    """Return the chosen plan group by group, folded away."""
    if report.chosen is None:
        return ""
    schemes, colours = report.front.schemes, scheme_colours(report.front.schemes)
    latency = report.costs.objectives.get("latency_us")
    lines = []
    for g, (group, s) in enumerate(zip(report.graph.groups, report.chosen.assignment, strict=True)):
        layer = report.graph.layers[group.layers[0]]
        more = (
            f" <small>+ {len(group.layers) - 1} more: {esc(group.reason)}</small>"
            if len(group.layers) > 1
            else ""
        )
        value = Estimate(float(report.table.values[g, s]), float(report.table.stderr[g, s]))
        parameters = sum(report.graph.layers[i].parameters for i in group.layers)
        gemm = layer.gemms[0]
        lines.append(
            f'<tr><td>{g + 1}</td><td class="text name">{esc(group.name)}{more}</td>'
            f'<td class="text">{esc(layer.op_type)} <small>{esc(layer.role)}</small></td>'
            f'<td class="text"><i class="dot" style="background:{colours[schemes[s]]}"></i>{esc(schemes[s])}</td>'
            f"<td>{gemm.m} × {gemm.n} × {gemm.k}</td><td>{grouped(parameters)}</td>"
            f"<td>{with_error(value)}</td>"
            f"<td>{number(float(latency[g, s])) if latency is not None else '–'}</td></tr>"
        )
    return (
        f"<details><summary>All {len(lines)} decisions</summary>"
        '<div class="wide"><table><thead><tr><th>#</th><th class="text">Layer</th><th class="text">Operator</th>'
        '<th class="text">Scheme</th><th>M × N × K</th><th>Parameters</th>'
        f"<th>{esc(report.table.metric)}<small>predicted, {esc(report.table.unit)}</small></th>"
        "<th>µs<small>modelled</small></th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def refused_table(report: Report) -> str:
    """Return which scheme is not allowed for which groups, and why, folded away."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    allowed, reasons = report.allowed, report.reasons
    for g, group in enumerate(report.table.groups):
        for s, scheme in enumerate(report.table.schemes):
            if not allowed[g, s]:
                reason = reasons.get((group, scheme), "no reason was recorded")
                by_reason[scheme, reason].append(group)
    if not by_reason:
        return "<p>Every scheme is allowed for every layer.</p>"
    lines = []
    for (scheme, reason), groups in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines.append(
            f'<tr><td>{esc(scheme)}</td><td class="text name">{esc(reason)}</td>'
            f'<td>{len(groups)}</td><td class="text name"><small>{esc(_some(groups))}</small></td></tr>'
        )
    total = sum(map(len, by_reason.values()))
    return (
        f"<details><summary>{total} choices are not allowed, and why</summary>"
        '<div class="wide"><table><thead><tr><th>Scheme</th><th class="text">Why</th><th>Groups</th>'
        f'<th class="text">Which</th></tr></thead><tbody>{_cut(lines)}</tbody></table></div></details>'
    )


def coverage_section(report: Report) -> str:
    """Return what the plan decides, what it does not, and why."""
    coverage = report.graph.coverage
    meters = "".join(
        _meter(name, part, whole)
        for name, part, whole in (
            ("Parameters", coverage.parameters, coverage.total_parameters),
            ("FLOPs", coverage.flops, coverage.total_flops),
        )
    )
    by_reason: dict[tuple[str, str], list[Undecided]] = defaultdict(list)
    for item in coverage.undecided:
        by_reason[item.op_type, item.reason].append(item)
    lines = [
        f'<tr><td class="name">{esc(op_type)}</td><td class="text name">{esc(reason)}</td>'
        f"<td>{len(items)}</td><td>{grouped(sum(i.parameters for i in items))}</td>"
        f"<td>{grouped(sum(i.flops for i in items))}</td>"
        f'<td class="text name"><small>{esc(_some([i.name for i in items]))}</small></td></tr>'
        for (op_type, reason), items in by_reason.items()
    ]
    fixed = [
        report.table.groups[g]
        for g in range(len(report.table.groups))
        if report.allowed[g].sum() == 1
    ]
    said = (
        f"<p>{len(fixed)} groups have one allowed scheme only, so that nothing was to decide: "
        f"{esc(_some(fixed))}.</p>"
        if fixed
        else ""
    )
    rest = (
        '<div class="wide"><table><thead><tr><th>Not decided</th><th class="text">Why</th>'
        '<th>Tensors</th><th>Parameters</th><th>FLOPs</th><th class="text">Which</th></tr></thead>'
        f"<tbody>{_cut(lines)}</tbody></table></div>"
        if lines
        else "<p>Nothing that holds parameters or multiplies was left out.</p>"
    )
    return (
        '<section id="coverage"><h2>What was decided, and what was not</h2>'
        "<p>Shares of the whole model that the plan speaks for; the rest stays as it was.</p>"
        f'<div class="meter">{meters}</div>{said}{rest}</section>'
    )


def run_section(report: Report) -> str:
    """Return how the run was made."""
    facts = {
        "model": report.model,
        "structure digest": report.graph.structure_digest[:16],
        "search space": report.space,
        "device": f"{report.device}, batch {report.batch}",
        "seed": str(report.seed),
        "sensitivity metric": report.table.metric,
        "cost of scoring": f"{number(report.table.cost_plans)} whole-model evaluations"
        if report.table.cost_plans
        else "",
        "search method": report.front.method,
        "certificate": report.front.certificate,
        **report.facts,
        **report.fingerprint,
    }
    rows = "".join(f"<dt>{esc(k)}</dt><dd>{esc(v)}</dd>" for k, v in facts.items() if v)
    return (
        '<section id="run"><h2>How this run was made</h2>'
        "<p>The same seed on the same machine and versions gives the same result; elsewhere it agrees "
        f"within its standard errors.</p><dl>{rows}</dl></section>"
    )


def notes_section(report: Report) -> str:
    """Return the notes, or nothing."""
    if not report.notes:
        return ""
    items = "".join(f"<li>{esc(note)}</li>" for note in report.notes)
    return f'<section id="notes"><h2>What to know before using this</h2><ul class="notes">{items}</ul></section>'


def _meter(name: str, part: int, whole: int) -> str:
    share = part / whole if whole else 0.0
    return (
        f'<div class="row"><b>{name}</b><span>{100 * share:.1f} % · {grouped(part)} of {grouped(whole)}</span></div>'
        f'<div class="bar"><i style="width:{100 * share:.2f}%"></i></div>'
    )


def grouped(value: int) -> str:
    """Return ``value`` with its thousands set apart."""
    return f"{value:,}".replace(",", "\u202f")


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _cut(lines: Sequence[str]) -> str:
    rest = len(lines) - _MOST_ROWS
    tail = f'<tr><td colspan="9">and {rest} more</td></tr>' if rest > 0 else ""
    return "".join(lines[:_MOST_ROWS]) + tail


def _kept(report: Report, row: PlanRow) -> str:
    """For how many groups a uniform plan had to keep the base."""
    if row.assignment is None:
        return ""
    scheme = uniform_scheme(row.assignment, report.allowed)
    if scheme is None:
        counts = [
            f"{sum(s == i for s in row.assignment)} {name}"
            for i, name in enumerate(report.front.schemes)
            if i in row.assignment
        ]
        return f"<br><small>{esc(', '.join(counts))}</small>"
    kept = [s for s in row.assignment if s != scheme]
    if not kept:
        return ""
    base = report.front.schemes[kept[0]]
    return f"<br><small>{len(kept)} groups stay {esc(base)}</small>"


def _values(row: PlanRow, word: str) -> dict[str, Estimate]:
    return dict(row.measured if word == "measured" else row.predicted)


def _estimate(value: Estimate | None) -> str | None:
    if value is None:
        return None
    mean, _, error = with_error(value).partition(" ± ")
    return f"{mean} <small>± {error}</small>" if error else mean


def _us(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{number(value / 1000)} ms" if value >= 10_000 else f"{number(value)} µs"


def _bytes(value: float | None) -> str | None:
    if value is None:
        return None
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return f"{number(value)} B"


def _signed(share: float) -> str:
    return f"{-share:+.0%}".replace("-", "−").replace("%", "<small> %</small>")


def _change(value: float | None, of: float) -> str | None:
    if value is None:
        return None
    change = value / of - 1
    return f"{change:+.0%}".replace("-", "−").replace("%", " %")


def _score_title(name: str) -> str:
    return name.upper() if len(name) <= 4 else name.replace("_", " ")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
