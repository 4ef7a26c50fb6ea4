"""Whether limits can be met at all, and if not, what the nearest limits are that can."""

from collections.abc import Mapping

import numpy as np

from mpsearch.errors import InfeasibleError
from mpsearch.problem import Problem
from mpsearch.search.front import find_front
from mpsearch.tables import Costs, Floats


def constraints(limits: Mapping[str, float]) -> tuple[str, ...]:
    """Return ``limits`` in words (``latency_us <= 120``), but for ``loss``: that is kept as measured."""
    return tuple(f"{name} <= {value!r}" for name, value in limits.items() if name != "loss")


def check_limits(costs: Costs, limits: Mapping[str, float]) -> None:
    """Check that some assignment meets all ``limits`` on costs; a limit on ``loss`` is left out.

    Args:
        costs: What schemes cost.
        limits: Objective or ``effective_bits`` to its greatest value.

    Raises:
        InfeasibleError: None does; says the nearest feasible value of each limit.
    """
    wanted = {name: value for name, value in limits.items() if name != "loss"}
    if not wanted or _least(costs, "latency_us", wanted) is not None:
        return
    parts: list[str] = []
    for name, value in wanted.items():
        others = {other: limit for other, limit in wanted.items() if other != name}
        nearest = _least(costs, name, others)
        if nearest is not None and nearest > value:
            kept = " with the other limits kept" if others else ""
            parts.append(f"{name} <= {_rounded_up(nearest)}{kept}")
    for name in wanted if not parts else ():
        nearest = _least(costs, name, {})
        parts.append(f"{name} <= {_rounded_up(nearest or 0.0)} without the other limits")
    asked = " and ".join(f"{name} <= {value:g}" for name, value in wanted.items())
    raise InfeasibleError(
        f"no assignment has {asked} on {costs.device}; the nearest that is feasible: "
        + "; ".join(parts)
    )


def _least(costs: Costs, goal: str, limits: Mapping[str, float]) -> float | None:
    """Least value of ``goal`` over the assignments within ``limits``; None if there are none."""
    objectives: dict[str, Floats] = dict(costs.objectives)
    name = "weight_bytes" if goal == "effective_bits" else goal
    problem = Problem(
        objectives,
        allowed=costs.allowed,
        edges=costs.edges,
        pair_terms=costs.pair_terms,
        parameters=costs.parameters,
        schemes=costs.schemes,
        constraints=constraints(limits),
        groups=costs.groups,
        constants=costs.constants,
    )
    try:
        front = find_front(problem, method="exact", objectives=(name,))
    except InfeasibleError:
        return None
    return front.points[0].predicted[goal].mean


def _rounded_up(value: float) -> str:
    """``value`` to 5 digits, rounded up, so that the printed limit can be met."""
    if value <= 0:
        return "0"
    step = 10.0 ** (np.floor(np.log10(value)) - 4)
    return f"{np.ceil(value / step) * step:.5g}"
