"""What figures show, in sentences: for those who hear a page, or print it without the figures."""

from collections.abc import Sequence

import numpy as np

from mpsearch.figures.comparison import compare
from mpsearch.figures.content import Report
from mpsearch.figures.shown.strips import show_plan
from mpsearch.figures.theme import plain_objective_title
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.front import Front, Point
from mpsearch.problem.tables import Costs, Table
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Bools, Estimate


def say_front(front: Front, x: str, y: str, *, unit: str = "", chosen: Point | None = None) -> str:
    """Return what the figure of a front shows over two objectives."""
    points = [p for p in front.points if x in _all(p) and y in _all(p)]
    if not points:
        return f"No point has both {x} and {y}."
    points.sort(key=lambda p: _all(p)[x].mean)
    named = plain_objective_title(x), plain_objective_title(y, unit)

    def at(point: Point) -> str:
        word = "measured" if y in point.measured else "predicted"
        return f"{named[0]} {number(_all(point)[x].mean)}, {word} {named[1]} {with_error(_all(point)[y])}"

    said = [
        f"{len(points)} plans, {sum(y in p.measured for p in points)} of them measured.",
        f"The first: {at(points[0])}. The last: {at(points[-1])}.",
    ]
    if chosen is not None and {x, y} <= _all(chosen).keys():
        said.append(f"The chosen one: {at(chosen)}.")
    return " ".join(said)


def say_plan(report: Report) -> str:
    """Return what the strips of the chosen plan show."""
    if report.chosen is None:
        return "No plan was chosen."
    schemes, assignment = report.front.schemes, report.chosen.assignment
    return say_shares(report.graph, schemes, assignment, report.costs, report.table)


def say_shares(
    graph: ModelGraph,
    schemes: Sequence[str],
    assignment: Sequence[int],
    costs: Costs | None,
    table: Table | None,
) -> str:
    """Return what share of layers, parameters, FLOPs, time and loss each scheme of a plan takes."""
    shown = show_plan(graph, assignment, costs=costs, table=table)
    chosen = np.array(shown.schemes)
    parts = []
    for s, name in enumerate(schemes):
        shares = [
            f"{number(float(strip.shares[chosen == s].sum()), 2)} % of {strip.title}"
            for strip in shown.strips
        ]
        if (chosen == s).any():
            parts.append(f"{name} takes {', '.join(shares)}.")
    return " ".join(parts)


def say_sensitivity(table: Table, allowed: Bools) -> str:
    """Return which groups are most fragile, scheme by scheme."""
    said = []
    for s, scheme in enumerate(table.schemes):
        values = np.where(allowed[:, s], table.values[:, s], -np.inf)
        first = [g for g in np.argsort(-values)[:3].tolist() if np.isfinite(values[g])]
        named = [f"{table.groups[g]} {number(float(values[g]), 2)}" for g in first]
        if named:
            refused = int((~allowed[:, s]).sum())
            tail = f" ({refused} groups may not take it)" if refused else ""
            said.append(f"In {scheme} the most fragile are {', '.join(named)} {table.unit}{tail}.")
    return " ".join(said)


def say_latency(costs: Costs, assignment: Sequence[int]) -> str:
    """Return where a plan's time goes."""
    latency = costs.objectives["latency_us"]
    own = latency[np.arange(len(latency)), np.asarray(assignment)]
    slowest = np.argsort(-own)[:5].tolist()
    named = [f"{costs.groups[g]} {number(float(own[g]), 2)} µs" for g in slowest]
    return (
        f"{number(float(own.sum()))} µs in all groups together; the slowest are {', '.join(named)}."
    )


def say_trust(report: Report) -> str:
    """Return how well predictions rank what was measured."""
    if report.rank_correlation is None:
        return f"Too few points were measured for a rank correlation. {say_pairs(report.front)}"
    rho, n = report.rank_correlation
    return (
        f"Spearman correlation {number(rho, 2)} over {n} measured points. {say_pairs(report.front)}"
    )


def say_pairs(front: Front) -> str:
    """Return how many measured points lose more than predicted."""
    both = [p for p in front.points if "loss" in p.predicted and "loss" in p.measured]
    if not both:
        return "No point was measured: nothing is known of how predictions rank plans."
    above = sum(p.measured["loss"].mean > p.predicted["loss"].mean for p in both)
    return f"{above} of {len(both)} measured points lose more than predicted."


def say_report(report: Report) -> dict[str, str]:
    """Return name of a figure of the report to what it shows."""
    names = report.front.names
    y = "loss" if "loss" in names else names[-1]
    x = next((name for name in names if name != y), y)
    said = {
        "front": say_front(report.front, x, y, unit=report.unit, chosen=report.chosen),
        "plan": say_plan(report),
        "sensitivity": say_sensitivity(report.table, report.allowed),
        "trust": say_trust(report),
    }
    if report.chosen is not None and "latency_us" in report.costs.objectives:
        said["latency"] = say_latency(report.costs, report.chosen.assignment)
        comparison = compare(report)
        if comparison is not None:
            said["latency"] += f" {comparison.sentence[:1].upper()}{comparison.sentence[1:]}."
    return said


def _all(point: Point) -> dict[str, Estimate]:
    return {**point.predicted, **point.measured}
