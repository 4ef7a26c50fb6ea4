"""The problem as a mixed-integer linear program, solved by HiGHS through scipy.

x[v, s] = 1 where variable v takes scheme s; z[e, a, b] >= 0 with sum_b z = x[i, a] and sum_a z = x[j, b]
carries the pair terms of edge e = (i, j). Rows and objective are scaled before solving: HiGHS's absolute
tolerances (1e-6) would otherwise decide among sums of 1e-7.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, vstack

from mpsearch.search.additive.contraction import Limit, Reduced
from mpsearch.stats.estimates import Bools, Floats, Ints

_ROW_SCALE = 1e3  # largest coefficient of a row: HiGHS's 1e-6 is then 1e-9 of it
_COST_SCALE = 1e3
_CUTS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Columns and structure of the integer program.

    Attributes:
        allowed: [V, S].
        edges: [E, 2].
        variable: [columns of x] v.
        scheme: [columns of x] s.
        rows: Equalities: one scheme a variable, and z consistent with x.
        right: Their right sides.
        upper: [columns] upper bounds; 0 of a z that is forbidden.
    """

    allowed: Bools
    edges: Ints
    variable: Ints
    scheme: Ints
    rows: csr_array
    right: Floats
    upper: Floats

    def column(self, values: Floats, pairs: Floats | None) -> Floats:
        """Return coefficients [columns] of a sum over values [V, S] and pairs [E, S, S]."""
        z = np.zeros(len(self.upper) - len(self.variable)) if pairs is None else pairs.ravel()
        return np.concatenate([values[self.variable, self.scheme], z])

    def indicator(self, row: Ints) -> Floats:
        """Return the columns x, z of an assignment [V]."""
        S, n_x = self.allowed.shape[1], len(self.variable)
        used = np.zeros(len(self.upper))
        used[:n_x] = self.scheme == row[self.variable]
        if len(self.edges):
            i, j = row[self.edges[:, 0]], row[self.edges[:, 1]]
            used[n_x + np.arange(len(self.edges)) * S * S + i * S + j] = 1.0
        return used


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """``coefficients · columns <= upper``."""

    coefficients: Floats
    upper: float


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What HiGHS found.

    Attributes:
        row: [V] schemes.
        value: The objective's sum.
        bound: Proven lower bound of it.
    """

    row: Ints
    value: float
    bound: float

    @property
    def gap(self) -> float:
        """Proven relative distance from optimum; 0 is optimal."""
        return max(0.0, self.value - self.bound) / max(abs(self.value), 1e-300)


def make_program(reduced: Reduced, *, forbid: bool = True) -> Program:
    """Lay out the program of ``reduced``; ``forbid`` False leaves forbidden pairs out."""
    V, S = reduced.allowed.shape
    variable, scheme = np.nonzero(reduced.allowed)
    n_x, E = len(variable), len(reduced.edges)
    one = csr_array(
        coo_array((np.ones(n_x), (variable, np.arange(n_x))), shape=(V, n_x + E * S * S))
    )
    position = np.full((V, S), -1)
    position[variable, scheme] = np.arange(n_x)
    z = n_x + np.arange(E * S * S).reshape(E, S, S)
    blocks, right = [one], [np.ones(V)]
    if E:
        for side in (0, 1):  # sum over the other end's scheme = x of this end
            row = np.arange(E * S).reshape(E, S)
            zs = z if side == 0 else z.transpose(0, 2, 1)
            rows = np.repeat(row.ravel(), S)
            mine = position[reduced.edges[:, side]]
            there = mine >= 0
            blocks.append(
                csr_array(
                    coo_array(
                        (
                            np.concatenate([np.ones(E * S * S), -np.ones(int(there.sum()))]),
                            (
                                np.concatenate([rows, row[there]]),
                                np.concatenate([zs.ravel(), mine[there]]),
                            ),
                        ),
                        shape=(E * S, n_x + E * S * S),
                    )
                )
            )
            right.append(np.zeros(E * S))
    upper = np.ones(n_x + E * S * S)
    if forbid and E:
        upper[n_x:][~reduced.pair_allowed.ravel()] = 0.0
    return Program(
        reduced.allowed,
        reduced.edges,
        variable.astype(np.int64),
        scheme.astype(np.int64),
        csr_array(vstack(blocks)),
        np.concatenate(right),
        upper,
    )


def limit_bounds(program: Program, limits: Iterable[Limit]) -> list[Bound]:
    """Return each of ``limits`` as one bound, or two if it has both ends."""
    bounds: list[Bound] = []
    for limit in limits:
        column = program.column(limit.coefficients, limit.pair_coefficients)
        ends = (Bound(column, limit.upper), Bound(-column, -limit.lower))
        bounds += [end for end in ends if np.isfinite(end.upper)]
    return bounds


def solve(
    program: Program,
    cost: Floats,
    bounds: Sequence[Bound] = (),
    *,
    exclude: Sequence[Ints] = (),
    gap: float = 0.0,
    time_limit_s: float | None = None,
) -> Solution | None:
    """Minimise ``cost`` [columns] within ``bounds``; None if nothing is within them.

    Args:
        program: The program.
        cost: Coefficients of x, then of z.
        bounds: Limits of sums.
        exclude: Assignments [V] that do not count.
        gap: Relative gap at which to stop; 0 proves optimality (to 1e-9 of the largest term).
        time_limit_s: Stop then with the best so far; None if there is none yet.
    """
    n_x = len(program.variable)
    low = np.full(len(program.allowed), np.inf)
    np.minimum.at(low, program.variable, cost[:n_x])
    shifted = cost.copy()
    shifted[:n_x] -= low[program.variable]  # a constant: each variable takes one scheme
    offset = float(low.sum())
    scale = _COST_SCALE / (float(np.abs(shifted).max()) or 1.0)
    rows, lower, upper = [program.rows], [program.right], [program.right]
    for bound in bounds:
        size = _ROW_SCALE / (float(np.abs(bound.coefficients).max()) or 1.0)
        rows.append(csr_array(bound.coefficients[None] * size))
        lower.append(np.array([-np.inf]))
        upper.append(np.array([bound.upper * size]))
    cuts = [program.indicator(row) for row in exclude]
    integrality = np.zeros(len(cost), np.int64)
    integrality[:n_x] = 1
    seconds = 1e9 if time_limit_s is None else max(0.1, time_limit_s)
    presolve = True
    for _ in range(_CUTS):
        for cut in cuts:
            cut[n_x:] = 0.0
            rows.append(csr_array(cut[None]))
            lower.append(np.array([-np.inf]))
            upper.append(np.array([len(program.allowed) - 1.0]))
        with _silent_stdout():
            result = milp(
                shifted * scale,
                integrality=integrality,
                bounds=Bounds(np.zeros(len(cost)), program.upper),
                constraints=LinearConstraint(
                    vstack(rows), np.concatenate(lower), np.concatenate(upper)
                ),
                options={"mip_rel_gap": gap, "time_limit": seconds, "presolve": presolve},
            )
        if result.x is None:
            return None
        row = _round(program, result.x[:n_x])
        used = program.indicator(row)
        if (program.upper >= used).all() and all(_within(used, bound) for bound in bounds):
            value = float(cost @ used)
            found = getattr(result, "mip_dual_bound", None)
            proven = value if found is None else float(found) / scale + offset
            done = (
                result.status == 0 and (value - proven) * scale > 1e-3 + gap * abs(result.fun) * 2
            )
            if done and presolve:  # "optimal" with a gap: presolve's tolerances have misled it
                presolve, cuts = False, []
                continue
            return Solution(row, value, min(value, proven))
        # a limit missed by less than HiGHS's integrality tolerance lets through: cut this one off
        cuts = [used]
    return None


def _within(used: Floats, bound: Bound) -> bool:
    slack = 1e-12 * float(np.abs(bound.coefficients[used > 0]).sum())
    return float(bound.coefficients @ used) <= bound.upper + slack


def _round(program: Program, x: Floats) -> Ints:
    table = np.full(program.allowed.shape, -1.0)
    table[program.variable, program.scheme] = x
    return table.argmax(axis=1)


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """Keep what HiGHS prints from C off standard output, which may carry JSON."""
    try:
        sys.stdout.flush()
        saved = os.dup(1)
    except (OSError, ValueError):
        yield
        return
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.close(sink)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
