"""The whole Pareto front of an additive problem, with a proof."""

import numpy as np

from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.problem.problem import Problem
from mpsearch.search.additive.contraction import Reduced, reduce_problem
from mpsearch.search.additive.convex_hull import sweep_hull
from mpsearch.search.additive.elimination import Additive, Eliminated, additive, eliminate
from mpsearch.search.additive.infeasible import infeasible_error
from mpsearch.search.measured.measure import as_measured
from mpsearch.search.measured.points import (
    COMPLETE,
    check_objectives,
    eps_certificate,
    make_front,
    make_points,
)
from mpsearch.search.task import Searcher, Task

_ENUMERATED = 2_000_000  # assignments that may be tried one by one where a constraint is code


def search(
    task: Task,
    *,
    eps: float = 0.0,
) -> Front:
    """Return every non-dominated assignment, by dynamic programming with dominance pruning.

    Boundary terms on any objective, limits on any sum, ties and forbidden pairs are exact, on any graph
    of edges that is narrow enough. Of assignments equal in all objectives one is returned. The front's
    ``certificate`` says whether it is complete, and else to which eps.

    Args:
        task: What to search. With an evaluator up to ``budget`` points (50 if None) spread over the front are
            measured, and the front of what was measured is returned; without one the budget is unused.
            From the deadline on the front is thinned, and no more points are measured.
        eps: What may be thinned away, as a share of each objective's range over the front.

    Raises:
        ProblemError: The edges need too many states at once, or a constraint is code and there are too
            many assignments to try them all.
        InfeasibleError: No assignment meets the constraints.
    """
    problem = task.problem
    names = check_objectives(problem, task.objectives)
    reduced = reduce_problem(problem, names)
    quantities = additive(reduced)
    quick = _hull_within(reduced, eps) if eps > 0 and not problem.checks else None
    if quick is not None:
        found = quick
    elif problem.checks:
        found = _enumerate(quantities, problem)
    else:
        whole = _padded(quantities)
        found = eliminate(whole, eps=eps, deadline=task.deadline, progress=task.progress)
    assignments = reduced.expand(found.rows)
    assignments = assignments[problem.feasible(assignments)]
    if not len(assignments):
        raise infeasible_error(problem)
    front = make_front(
        problem,
        make_points(problem, assignments, method="exact"),
        names,
        method="exact",
        certificate=_certify(found, quantities.n_objectives),
    )
    return as_measured(task, front)


SEARCHER = Searcher(search, predicts=True)


def _hull_within(reduced: Reduced, eps: float) -> Eliminated | None:
    """Return the hull of a separable problem without limits if it is within ``eps`` already."""
    if len(reduced.edges) or reduced.limits or len(reduced.names) != 2:
        return None
    x, y = np.ascontiguousarray(np.moveaxis(reduced.values, 2, 0))
    hull = sweep_hull(x, y, reduced.allowed, n=int(np.clip(2 / eps, 100, 2_000)))
    width = hull.eps * np.ptp(hull.values, axis=0)
    return Eliminated(hull.rows, hull.values, width) if hull.eps <= eps else None


def _padded(problem: Additive) -> Additive:
    """Give a single quantity a second one that is always 0."""
    if problem.values.shape[2] > 1:
        return problem
    return Additive(
        problem.allowed,
        np.pad(problem.values, ((0, 0), (0, 0), (0, 1))),
        problem.edges,
        np.pad(problem.pair_values, ((0, 0), (0, 0), (0, 0), (0, 1))),
        problem.pair_allowed,
        np.append(problem.upper, np.inf),
        problem.n_objectives,
    )


def _certify(found: Eliminated, n_objectives: int) -> str:
    if not found.width.any():
        return COMPLETE
    values = found.values[:, :n_objectives]
    spans = np.ptp(values, axis=0)
    shares = found.width[:n_objectives] / np.where(spans > 0, spans, 1.0)
    text = eps_certificate(float(shares.max()))
    if found.width[n_objectives:].any():
        text += ", where it meets the limits with as much to spare"
    return text


def _enumerate(quantities: Additive, problem: Problem) -> Eliminated:
    domains = [np.flatnonzero(row) for row in quantities.allowed]
    count = float(np.prod([float(len(domain)) for domain in domains]))
    if count > _ENUMERATED:
        raise ProblemError(
            f"exact search with a constraint that is code tries all assignments, at most {_ENUMERATED}, "
            f"but there are {count:.3g}; say the constraint in words, or use method='nsga2'"
        )
    rows = np.stack([axis.ravel() for axis in np.meshgrid(*domains, indexing="ij")], axis=1)
    return Eliminated(
        rows.astype(np.int64), np.zeros((len(rows), quantities.values.shape[2])), np.zeros(1)
    )
