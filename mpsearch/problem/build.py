"""A problem from a sensitivity table and costs."""

from collections.abc import Sequence

import numpy as np

from mpsearch.errors import ProblemError, check_argument
from mpsearch.problem.problem import Check, Problem
from mpsearch.problem.tables import Costs, Table


def build_problem(
    table: Table,
    costs: Costs,
    *,
    constraints: Sequence[str | Check] = (),
    confidence: float | None = None,
) -> Problem:
    """Join a sensitivity table and a cost table into one problem; ``loss`` is the table's.

    Args:
        table: Losses.
        costs: The other objectives.
        constraints: In words, or callables.
        confidence: Judge limits by one-sided upper bounds at this level; None: by means.

    Raises:
        ProblemError: The two speak of different groups or schemes, or see :class:`Problem`.
    """
    check_argument("table", table, Table, "as score_sensitivity returns it")
    check_argument("costs", costs, Costs, "as estimate_costs returns it")
    for what, mine, theirs in (
        ("groups", table.groups, costs.groups),
        ("schemes", table.schemes, costs.schemes),
    ):
        if tuple(mine) != tuple(theirs):
            odd = sorted(set(mine) ^ set(theirs))
            raise ProblemError(
                f"table and costs must have the same {what}, but "
                + (
                    f"{', '.join(map(repr, odd[:5]))} stand in one only"
                    if odd
                    else "the order differs"
                )
            )
    terms = dict(costs.pair_terms)
    edges = np.asarray(costs.edges, np.int64).reshape(-1, 2)
    if table.pair_terms is not None and len(table.edges):
        position = {(int(i), int(j)): e for e, (i, j) in enumerate(edges)}
        added: list[tuple[int, int]] = []
        where: list[tuple[int, bool]] = []
        for i, j in np.asarray(table.edges, np.int64).tolist():
            if (j, i) in position and (i, j) not in position:
                where.append((position[j, i], True))
                continue
            if (i, j) not in position:
                position[i, j] = len(edges) + len(added)
                added.append((i, j))
            where.append((position[i, j], False))
        edges = np.concatenate([edges, np.array(added, np.int64).reshape(-1, 2)])
        S = len(table.schemes)
        terms = {
            name: np.concatenate([value, np.zeros((len(added), S, S))])
            for name, value in terms.items()
        }
        loss = np.zeros((len(edges), S, S))
        for (edge, turned), value in zip(where, table.pair_terms, strict=True):
            loss[edge] += value.T if turned else value
        terms["loss"] = loss
    return Problem(
        {"loss": table.values, **costs.objectives},
        allowed=table.allowed & costs.allowed,
        stderr={"loss": table.stderr, **costs.stderr},
        edges=edges,
        pair_terms=terms,
        parameters=costs.parameters,
        schemes=table.schemes,
        constraints=constraints,
        groups=table.groups,
        constants=costs.constants,
        confidence=confidence,
    )
