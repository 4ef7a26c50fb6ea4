"""From assignments to the points and fronts that searchers return."""

from collections.abc import Mapping, Sequence

import numpy as np

from mpsearch.errors import InfeasibleError, ProblemError
from mpsearch.problem.front import Front, Point, Step
from mpsearch.problem.pareto import non_dominated
from mpsearch.problem.problem import Problem
from mpsearch.stats.estimates import Bools, Estimate, Ints

COMPLETE = "complete: every non-dominated assignment of the additive problem"
"""The certificate of a whole front."""


def eps_certificate(eps: float) -> str:
    """Return the certificate of a front that is whole but for a share ``eps`` of each objective's range."""
    return (
        f"eps={eps:.2g}: every assignment is matched to within {eps:.2g} of each objective's range over "
        "the front"
    )


def check_objectives(problem: Problem, names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` as a tuple of different objectives of ``problem``.

    Raises:
        ProblemError: One is unknown or stands twice, or there is none.
    """
    for name in names:
        if name not in problem.objectives:
            raise ProblemError(
                f"objectives must be of {', '.join(problem.objectives)}; got {name!r}"
            )
    if not names or len(set(names)) != len(names):
        raise ProblemError(f"objectives must be one name or more, all different; got {list(names)}")
    return tuple(names)


def make_points(
    problem: Problem,
    assignments: Ints,
    *,
    method: str,
    losses: Sequence[Estimate] | None = None,
) -> list[Point]:
    """Return a point for each of ``assignments`` [P, G], with every total that the tables predict.

    Args:
        problem: The tables.
        assignments: [P, G].
        method: What proposed them.
        losses: [P] measured losses, if they were measured.
    """
    means, stderrs = problem.evaluate(assignments), problem.stderrs(assignments)
    columns = {
        name: list(map(Estimate, means[name].tolist(), stderrs[name].tolist())) for name in means
    }
    bits = problem.effective_bits(assignments)
    if bits is not None:
        columns["effective_bits"] = [Estimate(value) for value in bits.tolist()]
    predicted = [
        dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ]
    measured: list[Mapping[str, Estimate]]
    measured = [{} for _ in predicted] if losses is None else [{"loss": loss} for loss in losses]
    rows = map(tuple, assignments.tolist())
    return [
        Point(row, guess, found, method)
        for row, guess, found in zip(rows, predicted, measured, strict=True)
    ]


def make_front(
    problem: Problem,
    points: Sequence[Point],
    names: tuple[str, ...],
    *,
    method: str,
    certificate: str = "",
    history: Sequence[Step] = (),
) -> Front:
    """Return the front of ``points``: the non-dominated ones, by the first objective.

    Raises:
        InfeasibleError: There are no points.
    """
    if not points:
        raise InfeasibleError(f"no assignment meets {describe(problem)}")
    whole = Front(tuple(points), names, problem.schemes, problem.groups)
    values = whole.objectives
    keep = np.flatnonzero(non_dominated(values))
    keep = keep[np.lexsort(values[keep].T[::-1])]
    return Front(
        tuple(points[i] for i in keep.tolist()),
        names,
        problem.schemes,
        problem.groups,
        method,
        certificate,
        tuple(history),
    )


def describe(problem: Problem) -> str:
    """Return the constraints in one line."""
    words = [
        text if isinstance(text, str) else getattr(text, "__name__", "a callable")
        for text in problem.constraints
    ]
    bound = f" (at {problem.confidence:.3g} confidence)" if problem.z and problem.linear else ""
    return ("; ".join(words) or "the allowed schemes") + bound


def judge(problem: Problem, assignments: Ints, losses: Sequence[Estimate] | None) -> Bools:
    """Return which of ``assignments`` [P, G] are feasible, by their measured losses if there are any."""
    if losses is None:
        return problem.feasible(assignments)
    means, stderrs = np.array(losses, np.float64).reshape(-1, 2).T
    return problem.feasible(assignments, measured={"loss": (means, stderrs)})
