"""The table that a run ends with: fp32, the uniform plans and the chosen ones, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpsearch.graph.model import ModelGraph
from mpsearch.problem.front import Point
from mpsearch.problem.pareto import non_dominated
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs
from mpsearch.search.measured.points import make_points
from mpsearch.space.allowed import uniform
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Bools, Estimate, Floats


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One line of the table of plans: the fp32 model, a uniform plan or a mixed one.

    Attributes:
        label: What people call it: ``fp32``, ``uniform fp8``, ``mixed``.
        assignment: [G] scheme indices; None is the fp32 model, which nothing was decided for.
        predicted: Objective to what the tables add up to.
        measured: Objective to what running the quantised model gave.
        scores: Name to score on held-out data: ``nll``, ``accuracy``, and the user's own.
        effective_bits: Stored bits of all decided weights over their number.
        latency_us: Modelled latency of one batch, microseconds.
        weight_bytes: Stored bytes of all decided weights.
        recovery: What its weights were recovered by; () for plainly rounded ones.
    """

    label: str
    assignment: tuple[int, ...] | None
    predicted: Mapping[str, Estimate] = field(default_factory=dict)
    measured: Mapping[str, Estimate] = field(default_factory=dict)
    scores: Mapping[str, Estimate] = field(default_factory=dict)
    effective_bits: float | None = None
    latency_us: float | None = None
    weight_bytes: float | None = None
    recovery: tuple[str, ...] = ()


def uniform_points(
    problem: Problem, space: SearchSpace, graph: ModelGraph, allowed: Bools
) -> dict[str, Point]:
    """Return ``uniform X`` for every scheme of the space, X where allowed and the base elsewhere.

    Args:
        problem: The tables, whose totals the points predict.
        space: The schemes.
        graph: The model.
        allowed: [G, S].
    """
    found = {
        f"uniform {name}": uniform(space, graph, name, allowed)
        for name in space.names
        if name == space.base or allowed[:, space.index(name)].any()
    }
    points = make_points(problem, np.array(list(found.values())), method="uniform")
    return dict(zip(found, points, strict=True))


def plan_row(label: str, point: Point, scores: Mapping[str, Estimate] = {}) -> PlanRow:
    """Return the row of ``point``; predicted and measured figures stay apart."""

    def total(name: str) -> float | None:
        return point.predicted[name].mean if name in point.predicted else None

    return PlanRow(
        label=label,
        assignment=point.assignment,
        predicted={name: point.predicted[name] for name in ("loss",) if name in point.predicted},
        measured=point.measured,
        scores=scores,
        effective_bits=total("effective_bits"),
        latency_us=total("latency_us"),
        weight_bytes=total("weight_bytes"),
    )


def reference_row(costs: Costs, scores: Mapping[str, Estimate] = {}) -> PlanRow:
    """Return the row of the fp32 model itself: 32 bits a weight, and no latency on the device."""
    parameters = float(costs.parameters.sum())
    return PlanRow(
        label="fp32",
        assignment=None,
        scores=scores,
        effective_bits=32.0,
        weight_bytes=4.0 * parameters,
    )


def mean_scores(scores: Mapping[str, Floats]) -> dict[str, Estimate]:
    """Return mean and standard error of each per-sample score [n]."""
    return {
        name: Estimate(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5)
        if len(values) > 1
        else Estimate(float(values.mean()))
        for name, values in scores.items()
    }


def cost_rows(
    costs: Costs, space: SearchSpace, graph: ModelGraph, allowed: Bools
) -> Sequence[PlanRow]:
    """Return the rows of the uniform plans where only costs are known."""
    problem = Problem(
        dict(costs.objectives),
        allowed=costs.allowed,
        edges=costs.edges,
        pair_terms=costs.pair_terms,
        parameters=costs.parameters,
        schemes=costs.schemes,
        groups=costs.groups,
        constants=costs.constants,
    )
    points = uniform_points(problem, space, graph, allowed)
    return [reference_row(costs), *(plan_row(label, point) for label, point in points.items())]


def row_value(row: PlanRow, name: str) -> float | None:
    """Return an objective of a row: measured where measured, else predicted, else its cost."""
    for values in (row.measured, row.predicted):
        if name in values:
            return values[name].mean
    costs = {
        "latency_us": row.latency_us,
        "weight_bytes": row.weight_bytes,
        "effective_bits": row.effective_bits,
    }
    return costs.get(name)


def predicted_line(points: Sequence[Point], x: str, y: str) -> list[Point]:
    """Return those of ``points`` that none is predicted to dominate in ``x`` and ``y``, along ``x``.

    A front also holds points for what they measured; a line through them would not be the predicted front.
    """
    both = [p for p in points if x in p.predicted and y in p.predicted]
    if not both:
        return []
    values = np.array([[p.predicted[x].mean, p.predicted[y].mean] for p in both])
    kept = np.flatnonzero(non_dominated(values))
    return [both[i] for i in kept[np.argsort(values[kept, 0], kind="stable")]]


def uniform_scheme(assignment: tuple[int, ...], allowed: Bools) -> int | None:
    """Return the scheme that ``assignment`` is uniform in, or None if it is mixed.

    Uniform X means X wherever X is allowed and one other scheme, the base, elsewhere. Where two
    schemes fit, the one of more groups is meant.

    Args:
        assignment: [G] scheme indices.
        allowed: [G, S].
    """
    chosen = np.asarray(assignment)
    schemes, counts = np.unique(chosen, return_counts=True)
    if len(schemes) > 2:
        return None
    for scheme in schemes[np.argsort(-counts, kind="stable")]:
        if not allowed[chosen != scheme, scheme].any():
            return int(scheme)
    return None
