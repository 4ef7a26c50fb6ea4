"""The parts of a report that are text and tables, as values."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mpsearch.figures.comparison import compare, find_row
from mpsearch.figures.content import Report
from mpsearch.figures.plan_row import PlanRow, uniform_scheme
from mpsearch.figures.theme import scheme_colours
from mpsearch.graph.model import Undecided
from mpsearch.report.values import Card, Cell, Column, Grid, grid_of, grouped, some_names
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Estimate


def lead(report: Report) -> tuple[str, str, str]:
    """Return the sentence at the top: what comes before, what is set in bold, what comes after."""
    comparison = compare(report)
    if comparison is not None:
        return "The chosen plan is ", _lower_first(comparison.sentence), "."
    row = find_row(report)
    if row is not None:
        return "The chosen plan is ", row.label, "; there was no other plan to compare it with."
    count = len(report.front.points)
    return "A front of ", f"{count} plans", " from the most accurate to the fastest."


def cards(report: Report) -> list[Card]:
    """Return the headline figures."""
    shown = []
    comparison = compare(report)
    if comparison is not None:
        chosen, uniform = comparison.chosen, comparison.uniform
        if comparison.faster is not None:
            why = f"modelled {_us(chosen.latency_us)} a batch; {uniform.label} {_us(uniform.latency_us)}"
            shown.append(Card("Latency", _signed(comparison.faster), why))
        if comparison.smaller is not None:
            why = f"{_bytes(chosen.weight_bytes)}; {uniform.label} {_bytes(uniform.weight_bytes)}"
            shown.append(Card("Weights", _signed(comparison.smaller), why))
        if comparison.loss is not None and comparison.uniform_loss is not None:
            cell = estimate_cell(comparison.loss)
            why = f"{cell.detail}; {uniform.label} {with_error(comparison.uniform_loss)}"
            title = f"{comparison.word} loss".capitalize()
            shown.append(Card(title, cell.text, why.removeprefix("; ")))
        for name, score in list(chosen.scores.items())[:2]:
            others = [
                f"{row.label} {number(row.scores[name].mean)}"
                for row in report.rows
                if name in row.scores and (row.assignment is None or row is uniform)
            ]
            why = f"± {number(score.stderr, 2)}; " + ", ".join(others)
            shown.append(Card(f"{_score_title(name)}, held-out", number(score.mean), why))
    elif (row := find_row(report)) is not None and row.latency_us is not None:
        why = "of the chosen plan, a batch"
        shown.append(Card("Modelled latency", _us(row.latency_us) or "–", why))
    row = find_row(report)
    if row is not None and row.effective_bits is not None:
        shown.append(
            Card("Effective bits", number(row.effective_bits), "a weight, scales included")
        )
    if report.rank_correlation is not None:
        rho, n = report.rank_correlation
        why = f"Spearman of predicted and measured loss, {n} plans; 1 is the right order"
        shown.append(Card("Predictions rank", f"{rho:.2f}".replace("-", "−"), why))
    return shown


def plans_table(report: Report) -> Grid | None:
    """Return the table of plans, without columns that no row fills; None where no plans were compared."""
    if not report.rows:
        return None
    comparison = compare(report)
    against = comparison.uniform if comparison else None
    rows, chosen = report.rows, find_row(report)
    columns = [Column("Plan", kind="name")]
    cells = [[Cell(row.label, _kept(report, row)) for row in rows]]

    def add(title: str, detail: str, values: Sequence[Cell | None]) -> None:
        if any(cell is not None for cell in values):
            columns.append(Column(title, detail))
            cells.append([cell if cell is not None else Cell("–") for cell in values])

    add("Latency", "modelled", [_cell(_us(r.latency_us)) for r in rows])
    if against is not None and against.latency_us:
        changes = [
            _cell(_change(r.latency_us, against.latency_us)) if r is not against else None
            for r in rows
        ]
        add("Latency", f"against {against.label}", changes)
    add("Weights", "", [_cell(_bytes(r.weight_bytes)) for r in rows])
    bits = [number(r.effective_bits) if r.effective_bits is not None else None for r in rows]
    add("Bits", "effective", [_cell(text) for text in bits])
    for word in ("predicted", "measured"):
        unit = f", {report.unit}" if report.unit else ""
        losses = [(r.measured if word == "measured" else r.predicted).get("loss") for r in rows]
        add("Loss", word + unit, [estimate_cell(loss) if loss else None for loss in losses])
    for name in dict.fromkeys(name for row in rows for name in row.scores):
        scores = [estimate_cell(r.scores[name]) if name in r.scores else None for r in rows]
        add(_score_title(name), "held-out", scores)
    mark = next((i for i, row in enumerate(rows) if row is chosen), -1)
    return Grid(tuple(columns), tuple(zip(*cells, strict=True)), chosen=mark)


def losses_table(title: str, losses: Mapping[str, Estimate]) -> Grid | None:
    """Return what each part loses beside the mean of all; None where there is but one."""
    if len(losses) < 2:
        return None
    mean = sum(loss.mean for loss in losses.values()) / len(losses)
    rows = [
        (
            Cell(name),
            estimate_cell(loss),
            Cell(number(loss.mean / mean, 2) if mean > 0 else "–"),
        )
        for name, loss in sorted(losses.items(), key=lambda item: -item[1].mean)
    ]
    columns = (Column(title, kind="name"), Column("Loss", "measured"), Column("Times", "the mean"))
    return grid_of(columns, rows)


def layers_table(report: Report) -> Grid | None:
    """Return the chosen plan group by group; None where none was chosen."""
    if report.chosen is None:
        return None
    schemes, colours = report.front.schemes, scheme_colours(report.front.schemes)
    latency = report.costs.objectives.get("latency_us")
    rows = []
    for g, (group, s) in enumerate(zip(report.graph.groups, report.chosen.assignment, strict=True)):
        layer = report.graph.layers[group.layers[0]]
        rest = len(group.layers) - 1
        value = Estimate(float(report.table.values[g, s]), float(report.table.stderr[g, s]))
        parameters = sum(report.graph.layers[i].parameters for i in group.layers)
        gemm = layer.gemms[0]
        rows.append(
            (
                Cell(str(g + 1)),
                Cell(group.name, f"+ {rest} more: {group.reason}" if rest else ""),
                Cell(layer.op_type, layer.role),
                Cell(schemes[s], colour=colours[schemes[s]]),
                Cell(f"{gemm.m} × {gemm.n} × {gemm.k}"),
                Cell(grouped(parameters)),
                estimate_cell(value),
                Cell(number(float(latency[g, s])) if latency is not None else "–"),
            )
        )
    columns = (
        Column("#"),
        Column("Layer", kind="name"),
        Column("Operator", kind="text"),
        Column("Scheme", kind="text"),
        Column("M × N × K"),
        Column("Parameters"),
        Column(report.table.metric, f"predicted, {report.table.unit}"),
        Column("µs", "modelled"),
    )
    return Grid(columns, tuple(rows))


def refused_table(report: Report) -> tuple[int, Grid]:
    """Return how many choices are not allowed, and which scheme for which groups, and why."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    allowed, reasons = report.allowed, report.reasons
    for g, group in enumerate(report.table.groups):
        for s, scheme in enumerate(report.table.schemes):
            if not allowed[g, s]:
                reason = reasons.get((group, scheme), "no reason was recorded")
                by_reason[scheme, reason].append(group)
    columns = (
        Column("Scheme", kind="text"),
        Column("Why", kind="name"),
        Column("Groups"),
        Column("Which", kind="name"),
    )
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    rows = [
        (Cell(scheme), Cell(reason), Cell(str(len(groups))), Cell(some_names(groups)))
        for (scheme, reason), groups in ordered
    ]
    return sum(map(len, by_reason.values())), grid_of(columns, rows)


def undecided_table(report: Report) -> Grid:
    """Return what no plan decides, and why."""
    by_reason: dict[tuple[str, str], list[Undecided]] = defaultdict(list)
    for item in report.graph.coverage.undecided:
        by_reason[item.op_type, item.reason].append(item)
    columns = (
        Column("Not decided", kind="text"),
        Column("Why", kind="name"),
        Column("Tensors"),
        Column("Parameters"),
        Column("FLOPs"),
        Column("Which", kind="name"),
    )
    rows = [
        (
            Cell(op_type),
            Cell(reason),
            Cell(str(len(items))),
            Cell(grouped(sum(item.parameters for item in items))),
            Cell(grouped(sum(item.flops for item in items))),
            Cell(some_names([item.name for item in items])),
        )
        for (op_type, reason), items in by_reason.items()
    ]
    return grid_of(columns, rows)


def coverage_meters(report: Report) -> list[tuple[str, float, str]]:
    """Return (what, percent, in words) of parameters and FLOPs that the plan decides."""
    coverage = report.graph.coverage
    shares = (
        ("Parameters", coverage.parameters, coverage.total_parameters),
        ("FLOPs", coverage.flops, coverage.total_flops),
    )
    return [
        (name, 100 * part / whole if whole else 0.0, f"{grouped(part)} of {grouped(whole)}")
        for name, part, whole in shares
    ]


def fixed_groups(report: Report) -> list[str]:
    """Return the groups with one allowed scheme only."""
    return [
        name
        for name, row in zip(report.table.groups, report.allowed, strict=True)
        if row.sum() == 1
    ]


def run_facts(report: Report) -> dict[str, str]:
    """Return how the run was made."""
    names = {"device": "losses computed on"}
    facts = {
        "model": report.model,
        "structure digest": report.graph.structure_digest[:16],
        "search space": report.space,
        "latency modelled for": f"{report.device}, batch {report.batch}",
        "seed": str(report.seed),
        "sensitivity metric": report.table.metric,
        "cost of scoring": f"{number(report.table.cost_plans)} whole-model evaluations"
        if report.table.cost_plans
        else "",
        "search method": report.front.method,
        "certificate": report.front.certificate,
        **report.facts,
        **{names.get(name, name): value for name, value in report.fingerprint.items()},
    }
    return {name: value for name, value in facts.items() if value}


def estimate_cell(value: Estimate) -> Cell:
    """Return a mean with its error as detail."""
    mean, _, error = with_error(value).partition(" ± ")
    return Cell(mean, f"± {error}" if error else "")


def _kept(report: Report, row: PlanRow) -> str:
    """What a mixed plan consists of; for how many groups a uniform one had to keep the base."""
    if row.assignment is None:
        return ""
    scheme = uniform_scheme(row.assignment, report.allowed)
    if scheme is None:
        counts = [
            f"{sum(s == i for s in row.assignment)} {name}"
            for i, name in enumerate(report.front.schemes)
            if i in row.assignment
        ]
        return ", ".join(counts)
    kept = [s for s in row.assignment if s != scheme]
    if not kept:
        return ""
    verb = "group stays" if len(kept) == 1 else "groups stay"
    return f"{len(kept)} {verb} {report.front.schemes[kept[0]]}"


def _cell(text: str | None) -> Cell | None:
    return None if text is None else Cell(text)


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
    if abs(share) < 0.005:
        return "0\u202f%"
    return f"{-share:+.0%}".replace("-", "−").replace("%", "\u202f%")


def _change(value: float | None, of: float) -> str | None:
    return None if value is None else _signed(1 - value / of)


def _score_title(name: str) -> str:
    words = name.replace("_", " ")
    return name.upper() if len(name) <= 4 else words[:1].upper() + words[1:]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
