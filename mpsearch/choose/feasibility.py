"""Whether limits can be met at all, and if not, what the nearest limits are that can."""

from collections.abc import Mapping

from mpsearch.errors import InfeasibleError
from mpsearch.problem.constraints import rounded_outward
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs
from mpsearch.search.additive.infeasible import Relaxation, explain_infeasible


def constraints(limits: Mapping[str, float]) -> tuple[str, ...]:
    """Return ``limits`` in words (``latency_us <= 120``), but for ``loss``: that is kept as measured."""
    return tuple(f"{name} <= {value!r}" for name, value in limits.items() if name != "loss")


def check_limits(
    costs: Costs, limits: Mapping[str, float], *, confidence: float | None = None
) -> None:
    """Check that some assignment meets all ``limits`` on costs; a limit on ``loss`` is left out.

    Args:
        costs: What schemes cost.
        limits: Objective or ``effective_bits`` to its greatest value.
        confidence: Judge by upper bounds at this level; None: by means.

    Raises:
        InfeasibleError: None does; says the nearest feasible value of each limit.
    """
    words = constraints(limits)
    if not words:
        return
    problem = Problem(
        costs.objectives,
        allowed=costs.allowed,
        stderr=costs.stderr,
        edges=costs.edges,
        pair_terms=costs.pair_terms,
        parameters=costs.parameters,
        schemes=costs.schemes,
        constraints=words,
        groups=costs.groups,
        constants=costs.constants,
        confidence=confidence,
    )
    relaxations = explain_infeasible(problem)
    if not relaxations:
        return
    sure = f" at {confidence:.3g} confidence" if confidence else ""
    raise InfeasibleError(
        f"no assignment has {' and '.join(_short(limits))} on {costs.device}{sure}; the nearest that is "
        "feasible: " + "; ".join(_said(relaxation, len(words)) for relaxation in relaxations)
    )


def _short(limits: Mapping[str, float]) -> list[str]:
    return [f"{name} <= {value:g}" for name, value in limits.items() if name != "loss"]


def _said(relaxation: Relaxation, count: int) -> str:
    """What is nearest for each limit of a smallest set to relax, of ``count`` limits in all."""
    names = [text.split()[0] for text in relaxation.constraints]
    parts = []
    for name, value in zip(names, relaxation.nearest, strict=True):
        others = " and ".join(other for other in names if other != name)
        kept = " with the other limits kept" if count > len(names) else ""
        without = f" without the limit on {others}" if others else ""
        parts.append(f"{name} <= {rounded_outward(value or 0.0, digits=5)}{without}{kept}")
    return "; ".join(parts)
