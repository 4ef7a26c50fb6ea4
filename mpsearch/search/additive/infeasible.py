"""Why nothing is feasible: the smallest sets of constraints to relax, and how far."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mpsearch.errors import InfeasibleError
from mpsearch.problem.constraints import LinearConstraint, rounded_outward
from mpsearch.problem.problem import Problem
from mpsearch.search.additive.contraction import Reduced, reduce_problem
from mpsearch.search.additive.linear_program import Bound, limit_bounds, make_program, solve
from mpsearch.search.measured.points import describe

_SECONDS = 20.0  # for each integer program
_SETS = 400  # sets of constraints that are tried


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A smallest set of constraints without which the others can be met.

    Attributes:
        constraints: Their words.
        nearest: For each, the value of its quantity nearest to the limit that is feasible while only the
            others of the set are dropped; None for ties and forbidden pairs.
    """

    constraints: tuple[str, ...]
    nearest: tuple[float | None, ...]


def explain_infeasible(problem: Problem) -> list[Relaxation]:
    """Return every smallest set of ``problem``'s constraints to relax; [] if it is feasible.

    Constraints that are code are left aside. Found by integer programs over ever larger sets; after 400
    sets one is returned that need not be smallest, but of which no constraint could be kept.
    """
    words = [text for text in problem.constraints if isinstance(text, str)]
    if _feasible(problem, words):
        return []
    tried = 0
    for size in range(1, len(words) + 1):
        found: list[Relaxation] = []
        for dropped in combinations(range(len(words)), size):
            tried += 1
            if tried > _SETS:
                return found or [_irreducible(problem, words)]
            kept = [text for k, text in enumerate(words) if k not in dropped]
            if _feasible(problem, kept):
                found.append(_relaxation(problem, kept, [words[k] for k in dropped]))
        if found:
            return found
    return []


def _irreducible(problem: Problem, words: list[str]) -> Relaxation:
    """Return what is left over once no more of ``words`` can be kept beside those kept before."""
    kept: list[str] = []
    for text in words:
        if _feasible(problem, [*kept, text]):
            kept.append(text)
    return _relaxation(problem, kept, [text for text in words if text not in kept])


def _relaxation(problem: Problem, kept: list[str], dropped: list[str]) -> Relaxation:
    nearest = tuple(_nearest(problem, kept, text) for text in dropped)
    return Relaxation(tuple(dropped), nearest)


def infeasible_error(problem: Problem) -> InfeasibleError:
    """Return the error that says what to relax, in one line."""
    relaxations = explain_infeasible(problem)
    if not relaxations:
        return InfeasibleError(f"no assignment meets {describe(problem)}")
    options = []
    for relaxation in relaxations[:4]:
        parts = [
            text if value is None else f"{text} (nearest feasible: {_said(text, value)})"
            for text, value in zip(relaxation.constraints, relaxation.nearest, strict=True)
        ]
        options.append(" and ".join(parts))
    return InfeasibleError(
        f"no assignment meets {describe(problem)}; it is enough to relax " + ", or ".join(options)
    )


def _said(text: str, value: float) -> str:
    return f"{value:.6g}" if "==" in text else rounded_outward(value, up="<=" in text)


def _reduced(problem: Problem, words: list[str]) -> Reduced | None:
    """Return the reduced problem; None where ties alone have no scheme in common."""
    try:
        return reduce_problem(problem.changed(constraints=words), tuple(problem.objectives)[:1])
    except InfeasibleError:
        return None


def _feasible(problem: Problem, words: list[str]) -> bool:
    reduced = _reduced(problem, words)
    if reduced is None:
        return False
    program = make_program(reduced)
    bounds = limit_bounds(program, reduced.limits)
    cost = bounds[0].coefficients if bounds else np.zeros(len(program.upper))
    return solve(program, cost, bounds, gap=1.0, time_limit_s=_SECONDS) is not None


def _nearest(problem: Problem, kept: list[str], text: str) -> float | None:
    """Return the feasible value nearest to the limit ``text`` under the constraints ``kept``."""
    limit = next((known for known in problem.linear if known.text == text), None)
    if limit is None:
        return None
    reduced = _reduced(problem, [*kept, text])
    if reduced is None:
        return None
    program = make_program(reduced)
    own = next(known for known in reduced.limits if known.source.text == text)
    bounds = limit_bounds(program, [known for known in reduced.limits if known is not own])
    column = program.column(own.coefficients, own.pair_coefficients)
    candidates: list[float] = []
    for sign, target in ((1.0, limit.upper), (-1.0, limit.lower)):
        if not np.isfinite(target):
            continue
        beyond: list[Bound] = []
        if np.isfinite(limit.lower) and np.isfinite(
            limit.upper
        ):  # ==: from the one side, then the other
            beyond = [Bound(-sign * column, -sign * (target - limit.constant))]
        solution = solve(program, sign * column, [*bounds, *beyond], time_limit_s=_SECONDS)
        if solution is not None:
            candidates.append(sign * solution.value + limit.constant)
    return min(candidates, key=lambda value: _distance(limit, value)) if candidates else None


def _distance(limit: LinearConstraint, value: float) -> float:
    return max(limit.lower - value, value - limit.upper, 0.0)
