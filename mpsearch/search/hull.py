"""The convex hull of the front by Lagrangian prices: milliseconds, for interactive use."""

import numpy as np

from mpsearch.deadline import Deadline, has_passed
from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.problem.tables import Progress
from mpsearch.search.additive.contraction import Reduced, add_up, reduce_problem
from mpsearch.search.additive.convex_hull import sweep_hull
from mpsearch.search.additive.elimination import Additive, eliminate
from mpsearch.search.additive.infeasible import infeasible_error
from mpsearch.search.additive.linear_program import limit_bounds, make_program, solve
from mpsearch.search.measured.measure import as_measured
from mpsearch.search.measured.points import (
    check_objectives,
    eps_certificate,
    make_front,
    make_points,
)
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Floats, Ints

_POINTS = 1_000
_ROW_ENTRIES = 4_000_000  # scheme indices of all points that are returned
_PRICES = 60  # prices tried where each one is a search of its own
_SECONDS = 20.0  # for each integer program


def search(task: Task) -> Front:
    """Return supported points: those that are best for some price of the first objective in the second.

    A separable problem takes one sweep over sorted slopes. With edges every price is a dynamic program,
    with limits, or with edges too dense for that, an integer program.

    Args:
        task: What to search, by two objectives. ``budget`` is the points to measure (50 if None), or without
            evaluator those returned, at most 1 000 if None.

    Raises:
        ProblemError: There are not two objectives, or a constraint is code.
        InfeasibleError: No assignment meets the constraints.
    """
    problem = task.problem
    names = check_objectives(problem, task.objectives)
    if len(names) != 2:
        raise ProblemError(f"hull needs two objectives, got {', '.join(names)}; use method='exact'")
    reduced = reduce_problem(problem, names)
    most = min(_POINTS, _ROW_ENTRIES // problem.n_groups)
    count = max(2, (task.budget if task.evaluator is None else None) or most)
    certificate = ""
    if not len(reduced.edges) and not reduced.limits and not problem.checks:
        x, y = np.ascontiguousarray(np.moveaxis(reduced.values, 2, 0))
        swept = sweep_hull(x, y, reduced.allowed, n=count)
        certificate = eps_certificate(swept.eps)
        rows = swept.rows
    else:
        if problem.checks:
            raise ProblemError("hull takes constraints in words only; use method='nsga2'")
        rows = _by_price(reduced, min(count, _PRICES), task.deadline, task.progress)
    assignments = reduced.expand(rows)
    assignments = assignments[problem.feasible(assignments)]
    if not len(assignments):
        raise infeasible_error(problem)
    front = make_front(
        problem,
        make_points(problem, assignments, method="hull"),
        names,
        method="hull",
        certificate=certificate,
    )
    return as_measured(task, front)


SEARCHER = Searcher(search)


def _by_price(
    reduced: Reduced, count: int, deadline: Deadline | None, progress: Progress | None
) -> Ints:
    """Return supported assignments, refining prices between neighbours, the widest first."""
    solver = _Prices(reduced, deadline)
    ends = [solver.best(np.array([1.0, 1e-6])), solver.best(np.array([1e-6, 1.0]))]
    supported = {row.tobytes(): row for row in ends if row is not None}
    rows = list(supported.values())
    open_pairs = [(rows[0], rows[-1])] if len(rows) == 2 else []
    tried = len(ends)
    while open_pairs and tried < count:
        if has_passed(deadline):
            break
        open_pairs.sort(key=lambda pair: solver.area(*pair))
        left, right = open_pairs.pop()
        a, b = solver.values(left), solver.values(right)
        weight = np.array([a[1] - b[1], b[0] - a[0]])
        if (weight <= 0).any():
            continue
        middle = solver.best(weight / weight.sum())
        tried += 1
        if progress:
            progress(tried, count, f"{len(supported)} supported points")
        if middle is None or middle.tobytes() in supported:
            continue
        if solver.values(middle) @ weight >= a @ weight - 1e-12 * np.abs(a * weight).sum():
            continue
        supported[middle.tobytes()] = middle
        open_pairs += [(left, middle), (middle, right)]
    return np.array(list(supported.values()), np.int64).reshape(-1, reduced.n_variables)


class _Prices:
    """Solves the weighted problem; objectives scaled to comparable size."""

    def __init__(self, reduced: Reduced, deadline: Deadline | None) -> None:
        self._reduced = reduced
        spread = np.ptp(np.where(reduced.allowed[:, :, None], reduced.values, np.nan), axis=1)
        size = np.nansum(spread, axis=0) + np.abs(reduced.pair_values).max(
            axis=(1, 2), initial=0
        ).sum(0)
        self._size = np.where(size > 0, size, 1.0)
        self._deadline = deadline
        self._program = make_program(reduced)
        self._bounds = limit_bounds(self._program, reduced.limits)
        self._use_program = bool(self._bounds)

    def values(self, row: Ints) -> Floats:
        reduced = self._reduced
        sums = add_up(reduced.values, reduced.edges, reduced.pair_values, row[None])
        scaled: Floats = sums[0] / self._size
        return scaled

    def area(self, left: Ints, right: Ints) -> float:
        return float(np.prod(np.abs(self.values(left) - self.values(right))))

    def best(self, weight: Floats) -> Ints | None:
        """Return the assignment [V] with the least weighted sum of scaled objectives."""
        reduced = self._reduced
        scaled = weight / self._size
        values, pairs = reduced.values @ scaled, reduced.pair_values @ scaled
        if not self._use_program:
            try:
                found = eliminate(
                    Additive(
                        reduced.allowed,
                        np.stack([values, np.zeros_like(values)], axis=2),
                        reduced.edges,
                        np.stack([pairs, np.zeros_like(pairs)], axis=3),
                        reduced.pair_allowed,
                        np.full(2, np.inf),
                        2,
                    )
                )
                return found.rows[0] if len(found.rows) else None
            except ProblemError:
                self._use_program = True
        cost = self._program.column(values, pairs)
        left = np.inf if self._deadline is None else self._deadline.left_s
        seconds = min(_SECONDS, max(left, 0.1))
        solution = solve(self._program, cost, self._bounds, gap=1e-4, time_limit_s=seconds)
        return None if solution is None else solution.row
