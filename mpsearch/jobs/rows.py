"""The table that a run ends with: fp32, the uniform plans and the chosen ones, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np

from mpsearch.graph.model import ModelGraph
from mpsearch.pareto import Point
from mpsearch.problem import Problem
from mpsearch.report.content import PlanRow
from mpsearch.search.points import make_points
from mpsearch.space import SearchSpace, uniform
from mpsearch.tables import Bools, Costs, Estimate, Floats


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
