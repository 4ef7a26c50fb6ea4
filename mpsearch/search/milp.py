"""Integer programming by HiGHS: any linear constraint, boundary and pair terms, with a proven gap."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mpsearch.deadline import has_passed
from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.search.additive.contraction import reduce_problem
from mpsearch.search.additive.infeasible import infeasible_error
from mpsearch.search.additive.linear_program import (
    Bound,
    Program,
    Solution,
    limit_bounds,
    make_program,
    solve,
)
from mpsearch.search.measured.measure import as_measured
from mpsearch.search.measured.points import COMPLETE, check_objectives, make_front, make_points
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Floats, Ints

_SMALL = 500  # columns up to which every point is found and proven by default
_POINTS = 20
_STEP = 1e-7  # of an objective's largest possible sum: by how much the next point must be better

Minimise = Callable[[Floats, list[Bound], list[Ints]], Solution | None]


def search(
    task: Task,
    *,
    gap: float | None = None,
) -> Front:
    """Return the front point by point: the least last objective under ever tighter limits of the others.

    Each point carries a proven ``bound`` of the last objective under its limits, and the ``gap``.

    Args:
        task: What to search; the last objective is the integer programs' own. ``budget`` is the points to
            find, spread evenly over the first objective; None: every point of problems of up to 500
            columns, 20 points of larger ones. With an evaluator they are measured too.
        gap: Relative gap at which a point is good enough; None: 0 up to 500 columns, else 0.001.

    Raises:
        ProblemError: A constraint is code.
        InfeasibleError: No assignment meets the constraints.
    """
    problem = task.problem
    names = check_objectives(problem, task.objectives)
    if problem.checks:
        raise ProblemError("milp takes constraints in words only; use method='nsga2'")
    reduced = reduce_problem(problem, names)
    program = make_program(reduced)
    small = len(program.upper) <= _SMALL
    wanted_gap = (0.0 if small else 1e-3) if gap is None else gap
    limits = limit_bounds(program, reduced.limits)
    costs = [
        program.column(reduced.values[:, :, k], reduced.pair_values[..., k])
        for k in range(len(names))
    ]
    found: dict[bytes, Solution] = {}
    goal = task.budget or (0 if small else _POINTS)  # 0: all of them

    def minimise(cost: Floats, bounds: list[Bound], exclude: list[Ints]) -> Solution | None:
        if has_passed(task.deadline):
            return None
        solution = solve(
            program,
            cost,
            [*limits, *bounds],
            exclude=exclude,
            gap=wanted_gap,
            time_limit_s=None if task.deadline is None else task.deadline.left_s,
        )
        if solution is not None:
            before = found.get(solution.row.tobytes())
            if before is None or before.gap > solution.gap:
                found[solution.row.tobytes()] = solution
            if task.progress:
                task.progress(len(found), goal or len(found), f"gap {solution.gap:.1e}")
        return solution

    _solve_front(program, costs, minimise, goal)
    rows = np.array([s.row for s in found.values()], np.int64).reshape(-1, reduced.n_variables)
    assignments = reduced.expand(rows)
    constant = problem.constants.get(names[-1], 0.0)
    proofs = [(s.bound + constant, s.gap) for s in found.values()]
    fine = problem.feasible(assignments)
    made = [
        replace(point, bound=bound, gap=distance)
        for point, (bound, distance), good in zip(
            make_points(problem, assignments, method="milp"), proofs, fine, strict=True
        )
        if good
    ]
    if not made:
        raise infeasible_error(problem)
    worst = max((distance for _, distance in proofs), default=0.0)
    whole = not goal and not has_passed(task.deadline) and worst <= 1e-8
    certificate = (
        f"{COMPLETE} ({names[0]} to 1e-7 of its largest sum)"
        if whole
        else f"each of the integer programs solved to a gap of {worst:.2g}"
    )
    front = make_front(problem, made, names, method="milp", certificate=certificate)
    return as_measured(replace(task, budget=goal or None), front)


SEARCHER = Searcher(search)


def _solve_front(program: Program, costs: list[Floats], minimise: Minimise, goal: int) -> None:
    """Solve for ``goal`` points spread over the first objective, or for all; ``minimise`` keeps them."""
    if len(costs) == 1:
        minimise(costs[0], [], [])
        return
    if not goal:
        _solve_all(program, costs, [], minimise)
        return
    ends = [minimise(costs[0], [], []), minimise(costs[-1], [], [])]
    if ends[0] is None or ends[1] is None or goal <= 2:
        return
    low, high = (_sum(program, costs[0], end) for end in ends if end is not None)
    for limit in np.linspace(high, low, goal)[1:-1]:
        minimise(costs[-1], [Bound(costs[0], float(limit))], [])


def _sum(program: Program, cost: Floats, solution: Solution) -> float:
    return float(cost @ program.indicator(solution.row))


def _solve_all(
    program: Program, costs: list[Floats], outer: list[Bound], minimise: Minimise
) -> list[Solution]:
    """Find every point under ``outer``: the least last objective while the first is forced down.

    With more than two objectives the first is the outer loop: the front of the others under a limit
    on it, then the limit below the largest value that this front took.
    """
    first, rest = costs[0], costs[1:]
    step = _STEP * float(np.abs(first).max()) * len(program.allowed)
    found: list[Solution] = []
    inner: list[Bound] = []
    while True:
        if len(rest) == 1:
            solution = minimise(rest[0], [*outer, *inner], [s.row for s in found[-1:]])
            new = [] if solution is None else [solution]
        else:
            new = _solve_all(program, rest, [*outer, *inner], minimise)
        if not new:
            return found
        found += new
        largest = max(_sum(program, first, solution) for solution in new)
        inner = [Bound(first, largest - step)]
