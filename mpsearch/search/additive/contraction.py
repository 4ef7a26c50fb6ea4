"""A problem with its ties contracted: one variable a set of groups that must agree."""

from dataclasses import dataclass

import networkx as nx
import numpy as np

from mpsearch.errors import InfeasibleError
from mpsearch.problem.constraints import LinearConstraint
from mpsearch.problem.problem import Problem
from mpsearch.stats.estimates import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """A linear constraint over variables, in the problem's own units.

    Attributes:
        source: The constraint it stands for.
        coefficients: [V, S].
        pair_coefficients: [E, S, S] along the reduced edges, or None.
        lower: Least value of the sum, constant not included.
        upper: Greatest value of the sum.
    """

    source: LinearConstraint
    coefficients: Floats
    pair_coefficients: Floats | None
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """A problem in V variables. Values of several objectives stack along the last axis.

    Attributes:
        names: O objectives.
        member: [G] variable of each group.
        allowed: [V, S].
        values: [V, S, O].
        edges: [E, 2], i < j, each pair once; only those that carry a term or forbid something.
        pair_values: [E, S, S, O].
        pair_allowed: [E, S, S]; False: the two schemes exclude each other.
        limits: The linear constraints.
    """

    names: tuple[str, ...]
    member: Ints
    allowed: Bools
    values: Floats
    edges: Ints
    pair_values: Floats
    pair_allowed: Bools
    limits: tuple[Limit, ...]

    @property
    def n_variables(self) -> int:
        """Number of variables, V."""
        return len(self.allowed)

    def expand(self, rows: Ints) -> Ints:
        """Return assignments of groups [P, G] from those of variables [P, V]."""
        return rows[:, self.member]

    def contract(self, assignments: Ints) -> Ints:
        """Return assignments of variables [P, V]: each tie's first group decides."""
        first = np.unique(self.member, return_index=True)[1]
        return np.asarray(assignments, np.int64)[:, first]


def add_up(values: Floats, edges: Ints, pair_values: Floats, rows: Ints) -> Floats:
    """Return the sums [P, O] that ``rows`` [P, V] take of ``values`` [V, S, O] and ``pair_values`` [E, S, S, O]."""
    total: Floats = values[np.arange(len(values)), rows].sum(axis=1)
    if len(edges):
        i, j = rows[:, edges[:, 0]], rows[:, edges[:, 1]]
        total = total + pair_values[np.arange(len(edges)), i, j].sum(axis=1)
    return total


def reduce_problem(problem: Problem, names: tuple[str, ...]) -> Reduced:
    """Contract ``problem``'s ties, join its parallel edges, drop edges without effect.

    Raises:
        InfeasibleError: Tied groups have no scheme in common.
    """
    S = problem.n_schemes
    member = _join_ties(problem)
    V = int(member.max()) + 1
    allowed = np.ones((V, S), np.bool_)
    np.logical_and.at(allowed, member, problem.allowed)

    tables = [problem.objectives[name] for name in names]
    tables += [limit.coefficients for limit in problem.linear]
    terms = [problem.pair_terms.get(name) for name in names]
    terms += [limit.pair_coefficients for limit in problem.linear]
    values = np.zeros((V, S, len(tables)))
    for k, table in enumerate(tables):
        np.add.at(values[:, :, k], member, table)

    ends = member[problem.edges]
    position: dict[tuple[int, int], int] = {}
    pair_values: list[Floats] = []
    pair_allowed: list[Bools] = []

    def slot(i: int, j: int) -> int:
        if (i, j) not in position:
            position[i, j] = len(pair_values)
            pair_values.append(np.zeros((S, S, len(tables))))
            pair_allowed.append(np.ones((S, S), np.bool_))
        return position[i, j]

    for e, (i, j) in enumerate(ends.tolist()):
        for k, term in enumerate(terms):
            if term is None or not term[e].any():
                continue
            if i == j:
                values[i, :, k] += term[e].diagonal()
            elif i < j:
                pair_values[slot(i, j)][:, :, k] += term[e]
            else:
                pair_values[slot(j, i)][:, :, k] += term[e].T
    for pair in problem.forbidden:
        i, a, j, b = (
            int(member[pair.group]),
            pair.scheme,
            int(member[pair.other]),
            pair.other_scheme,
        )
        if i == j:
            if a == b:
                allowed[i, a] = False
            continue
        i, a, j, b = (i, a, j, b) if i < j else (j, b, i, a)
        pair_allowed[slot(i, j)][a, b] = False
    empty = np.flatnonzero(~allowed.any(axis=1))
    if empty.size:
        tied = [problem.groups[g] for g in np.flatnonzero(member == empty[0])]
        raise InfeasibleError(
            f"tied groups need a scheme in common, but {', '.join(tied)} have none"
        )
    values[~allowed] = 0.0
    n_objectives = len(names)
    pairs = np.array(pair_values).reshape(-1, S, S, len(tables))
    limits = tuple(
        Limit(
            limit,
            values[:, :, n_objectives + k],
            pairs[..., n_objectives + k] if pairs[..., n_objectives + k].any() else None,
            limit.lower - limit.constant - limit.slack,
            limit.upper - limit.constant + limit.slack,
        )
        for k, limit in enumerate(problem.linear)
    )
    return Reduced(
        names,
        member,
        allowed,
        values[:, :, :n_objectives],
        np.array(list(position), np.int64).reshape(-1, 2),
        pairs[..., :n_objectives],
        np.array(pair_allowed, np.bool_).reshape(-1, S, S),
        limits,
    )


def _join_ties(problem: Problem) -> Ints:
    """Return [G] the variable of each group: tied ones share one, numbered by their first group."""
    first = np.arange(problem.n_groups)
    if problem.ties:
        tied: nx.Graph[int] = nx.Graph()
        for tie in problem.ties:
            nx.add_path(tied, tie.members)
        for groups in nx.connected_components(tied):
            first[list(groups)] = min(groups)
    return np.unique(first, return_inverse=True)[1].astype(np.int64)
