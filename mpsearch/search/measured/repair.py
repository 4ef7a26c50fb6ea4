"""Feasible assignments for searchers that draw at random."""

from dataclasses import dataclass

import numpy as np

from mpsearch.errors import InfeasibleError
from mpsearch.problem.problem import Problem
from mpsearch.search.additive.contraction import Reduced, reduce_problem
from mpsearch.search.additive.infeasible import infeasible_error
from mpsearch.search.additive.linear_program import limit_bounds, make_program, solve
from mpsearch.search.measured.points import describe
from mpsearch.stats.estimates import Bools, Floats, Ints

_DRAWS = 20_000
_LENGTHS = 48  # prefixes that one repair tries


@dataclass(frozen=True, slots=True, eq=False)
class Repairer:
    """Turns any assignment of variables into a feasible one.

    Attributes:
        problem: The problem, without the limits that are left to measurement.
        reduced: The same with ties contracted.
        anchors: [A, V] feasible assignments; none if every allowed assignment is feasible.
    """

    problem: Problem
    reduced: Reduced
    anchors: Ints

    def feasible(self, rows: Ints) -> Bools:
        """Return which assignments of variables [P, V] are feasible."""
        return self.problem.feasible(self.reduced.expand(rows))

    def repair(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """Return ``rows`` [P, V], infeasible ones moved towards an anchor until they are feasible.

        Variables take the anchor's schemes in random order; the first feasible mix stays.
        """
        if not len(self.anchors):
            return rows
        fixed = rows.copy()
        V = self.reduced.n_variables
        lengths = np.unique(np.linspace(1, V, min(V, _LENGTHS)).astype(np.int64))
        for index in np.flatnonzero(~self.feasible(rows)).tolist():
            anchor = self.anchors[rng.integers(len(self.anchors))]
            rank = rng.permutation(V)
            mixes = np.where(rank < lengths[:, None], anchor, rows[index])
            fixed[index] = mixes[int(self.feasible(mixes).argmax())]  # the last one is the anchor
        return fixed

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        """Return ``count`` feasible assignments of variables: random ones, repaired."""
        return self.repair(draw_allowed(self.reduced.allowed, count, rng), rng)


def make_repairer(problem: Problem, reduced: Reduced, *, measures: bool, seed: int) -> Repairer:
    """Find feasible anchors: the best of each objective, by integer programming, else by chance.

    Args:
        problem: The problem.
        reduced: The same with ties contracted.
        measures: Losses are measured: limits on ``loss`` are then left to the measurement.
        seed: Of what chance finds.

    Raises:
        InfeasibleError: No feasible assignment was found.
    """
    left = [limit.text for limit in problem.linear if measures and limit.quantity == "loss"]
    if left:
        problem = problem.changed(constraints=[c for c in problem.constraints if c not in left])
        reduced = reduce_problem(problem, reduced.names)
    free = not reduced.limits and not problem.checks and bool(reduced.pair_allowed.all())
    bare = Repairer(problem, reduced, np.zeros((0, reduced.n_variables), np.int64))
    if free:
        return bare
    program = make_program(reduced)
    bounds = limit_bounds(program, reduced.limits)
    found: list[Ints] = []
    for k in range(len(reduced.names)):
        cost = program.column(reduced.values[:, :, k], reduced.pair_values[..., k])
        solution = solve(program, cost, bounds, gap=0.01, time_limit_s=20.0)
        if solution is not None:
            found.append(solution.row)
    rows = np.array(found, np.int64).reshape(-1, reduced.n_variables)
    rows = rows[bare.feasible(rows)]
    if not len(rows):
        rng = np.random.default_rng([seed, 0xA])
        draws = draw_allowed(reduced.allowed, _DRAWS if problem.checks else 1, rng)
        rows = draws[bare.feasible(draws)][:8]
    if not len(rows):
        if problem.checks:
            raise InfeasibleError(f"no assignment was found that meets {describe(problem)}")
        raise infeasible_error(problem)
    return Repairer(problem, reduced, np.unique(rows, axis=0))


def draw_allowed(allowed: Bools, count: int, rng: np.random.Generator) -> Ints:
    """Return ``count`` random assignments [count, V] of allowed [V, S] schemes."""
    scores: Floats = rng.random((count, *allowed.shape))
    scores[:, ~allowed] = -1.0
    return scores.argmax(axis=2)


def draw_segments(count: int, n_variables: int, rng: np.random.Generator) -> Bools:
    """Return ``count`` random stretches of neighbouring variables [count, V], for crossover."""
    ends = np.sort(rng.integers(n_variables + 1, size=(count, 2)), axis=1)
    place = np.arange(n_variables)
    inside: Bools = (place >= ends[:, :1]) & (place < ends[:, 1:])
    return inside
