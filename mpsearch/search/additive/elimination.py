"""Exact fronts of additive problems: variables eliminated one by one, a Pareto set for each state.

A state assigns schemes to the frontier: the variables already decided that share an edge with one not
yet decided. On a chain that is Viterbi's algorithm with fronts in place of scores; without edges there
is one state; any graph works as long as its frontiers stay narrow (its pathwidth).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.deadline import Deadline, has_passed
from mpsearch.errors import ProblemError
from mpsearch.problem.tables import Progress
from mpsearch.search.additive.compiled import filter_sorted, filter_three, merge_fronts, thin_fronts
from mpsearch.search.additive.contraction import Reduced
from mpsearch.search.additive.ordering import find_order
from mpsearch.stats.estimates import Bools, Floats, Ints

MAX_ARCS = 400_000  # (state, scheme) combinations of one step; more is too wide
_ROUNDING = 1e-12  # of a quantity's largest possible sum
_WORK = 100_000_000  # candidates that a two-dimensional front may look at: seconds
_ROW_ENTRIES = 10_000_000  # scheme indices of all points that are returned
_SET_SIZES = (30_000, 4_000)  # points that a step keeps in three dimensions, and in more


@dataclass(frozen=True, slots=True, eq=False)
class Additive:
    """D additive quantities of V variables, all minimised, some limited.

    Attributes:
        allowed: [V, S].
        values: [V, S, D].
        edges: [E, 2].
        pair_values: [E, S, S, D].
        pair_allowed: [E, S, S].
        upper: [D] limits; inf where none.
        n_objectives: The first so many quantities are objectives, the rest only limited.
    """

    allowed: Bools
    values: Floats
    edges: Ints
    pair_values: Floats
    pair_allowed: Bools
    upper: Floats
    n_objectives: int


@dataclass(frozen=True, slots=True, eq=False)
class Eliminated:
    """What the elimination found.

    Attributes:
        rows: [P, V] assignments.
        values: [P, D] their quantities, constants left out.
        width: [D] by how much at most a dropped assignment was better than one that stayed.
    """

    rows: Ints
    values: Floats
    width: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One variable's elimination: arcs sorted by new state, each from an old state with a scheme."""

    arc_start: Ints
    arc_state: Ints
    arc_scheme: NDArray[np.int16]
    shift: Floats  # [arcs, D]


@dataclass(frozen=True, slots=True, eq=False)
class _Sets:
    """Pareto sets of all states: entries start[k]:start[k + 1] of ``values`` [n, D] are state k's."""

    values: Floats
    start: Ints
    parent: NDArray[np.int32]
    scheme: NDArray[np.int16]


def additive(reduced: Reduced) -> Additive:
    """Write objectives and limits as quantities with upper limits.

    A limit on a multiple of an objective bounds that objective; any other adds a quantity.
    """
    n = len(reduced.names)
    values = [reduced.values[:, :, k] for k in range(n)]
    pairs = [reduced.pair_values[..., k] for k in range(n)]
    upper = [np.inf] * n
    none = np.zeros(reduced.pair_values.shape[:-1])
    for limit in reduced.limits:
        term = none if limit.pair_coefficients is None else limit.pair_coefficients
        for sign, bound in ((1.0, limit.upper), (-1.0, -limit.lower)):
            if not np.isfinite(bound):
                continue
            for k, (mine, linked) in enumerate(zip(values, pairs, strict=True)):
                ratio = _ratio(sign * limit.coefficients, sign * term, mine, linked)
                if ratio:
                    upper[k] = min(upper[k], bound / ratio)
                    break
            else:
                values.append(sign * limit.coefficients)
                pairs.append(sign * term)
                upper.append(bound)
    return Additive(
        reduced.allowed,
        np.stack(values, axis=2),
        reduced.edges,
        np.stack(pairs, axis=3),
        reduced.pair_allowed,
        np.array(upper),
        n,
    )


def _ratio(a: Floats, a_pairs: Floats, b: Floats, b_pairs: Floats) -> float:
    """Return r > 0 with a = r b, or 0."""
    flat_a = np.concatenate([a.ravel(), a_pairs.ravel()])
    flat_b = np.concatenate([b.ravel(), b_pairs.ravel()])
    top = int(np.abs(flat_b).argmax())
    if not flat_b[top]:
        return 0.0
    ratio = float(flat_a[top] / flat_b[top])
    same = np.allclose(flat_a, ratio * flat_b, rtol=1e-13, atol=1e-13 * abs(float(flat_a[top])))
    return ratio if ratio > 0 and same else 0.0


def eliminate(
    problem: Additive,
    *,
    eps: float = 0.0,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Eliminated:
    """Return all non-dominated assignments within the limits, or a front whose ``width`` is stated.

    Sets that would take too long are thinned: of points closer than a width in all quantities but the
    second, the one with the least second quantity stays. The widths of all steps add up.

    Args:
        problem: The quantities.
        eps: Width that may be thinned away, as a share of each objective's range over the front.
        deadline: From then on sets are thinned to a few hundred points.
        progress: Called after every variable.

    Raises:
        ProblemError: The frontiers are too wide.
    """
    order = find_order(problem.allowed.sum(axis=1), problem.edges)
    steps = _plan(problem, order)
    D = problem.values.shape[2]
    scale = np.abs(problem.values).max(axis=1).sum(axis=0)
    scale = scale + np.abs(problem.pair_values).max(axis=(1, 2), initial=0.0).sum(axis=0)
    tolerance = _ROUNDING * scale
    limits = _partial_limits(problem, order)
    fixed = np.zeros(D)
    if eps > 0 and D == 2:
        fixed[0] = eps * _range(problem, steps, limits) / len(order)

    sets = _Sets(np.zeros((1, D)), np.array([0, 1]), np.zeros(1, np.int32), np.zeros(1, np.int16))
    history: list[_Sets] = []
    width = np.zeros(D)
    work = _WORK
    for t, step in enumerate(steps):
        fan_out = max(1, len(step.arc_state) // (len(sets.start) - 1))
        cap = max(len(step.arc_start), work // ((len(steps) - t) * fan_out))
        if D > 2:
            cap = max(len(step.arc_start), _SET_SIZES[D > 3])
        if t == len(steps) - 1:
            cap = min(cap, max(1000, _ROW_ENTRIES // len(order)))
        if has_passed(deadline):
            cap = max(len(step.arc_start), 400)
        work -= len(sets.values) * fan_out
        if D == 2:
            sets, added = _advance_two(sets, step, limits[t], tolerance, fixed, cap)
        else:
            sets, added = _advance_many(sets, step, limits[t], tolerance, cap)
        width += added
        history.append(sets)
        if progress:
            progress(t + 1, len(steps), f"{len(sets.values)} partial points")
    rows = np.empty((len(sets.values), len(order)), np.int64)
    entry: NDArray[np.integer[Any]] = np.arange(len(sets.values))
    for variable, past in zip(reversed(order), reversed(history), strict=True):
        rows[:, variable] = past.scheme[entry]
        entry = past.parent[entry]
    return Eliminated(rows, sets.values, width)


def _plan(problem: Additive, order: Sequence[int]) -> list[_Step]:
    """Lay out the states and arcs of every step."""
    place = {v: t for t, v in enumerate(order)}
    domain = [np.flatnonzero(row) for row in problem.allowed]
    links: dict[int, list[tuple[int, Floats, Bools]]] = {v: [] for v in order}
    last = dict(place)  # step of a variable's last neighbour
    for e, (i, j) in enumerate(problem.edges.tolist()):
        value, fine = problem.pair_values[e], problem.pair_allowed[e]
        if place[i] < place[j]:
            links[j].append((i, value, fine))
            last[i] = max(last[i], place[j])
        else:
            links[i].append((j, value.transpose(1, 0, 2), fine.T))
            last[j] = max(last[j], place[i])
    steps: list[_Step] = []
    frontier: list[int] = []
    for t, v in enumerate(order):
        sizes = [len(domain[u]) for u in [*frontier, v]]
        arcs = float(np.prod([float(size) for size in sizes]))
        if arcs > MAX_ARCS:
            raise ProblemError(
                f"exact search keeps at most {MAX_ARCS} states at once, but the edges of this problem "
                f"need {arcs:.0f}; use method='milp', or measure with 'nsga2'"
            )
        digits = np.indices(sizes).reshape(len(sizes), -1)  # frontier's positions, then v's
        taken = {u: domain[u][digit] for u, digit in zip([*frontier, v], digits, strict=True)}
        shift = problem.values[v, taken[v]].copy()
        fine = np.ones(len(shift), np.bool_)
        for u, value, okay in links[v]:
            shift += value[taken[u], taken[v]]
            fine &= okay[taken[u], taken[v]]
        old = np.zeros(len(shift), np.int64)
        for digit, size in zip(digits[:-1], sizes[:-1], strict=True):
            old = old * size + digit
        new = np.zeros(len(shift), np.int64)
        n_new = 1
        stay = [k for k, u in enumerate([*frontier, v]) if last[u] > t]
        for k in stay:
            new = new * sizes[k] + digits[k]
            n_new *= sizes[k]
        arcs_by_state = np.flatnonzero(fine)
        arcs_by_state = arcs_by_state[np.argsort(new[arcs_by_state], kind="stable")]
        start = np.searchsorted(new[arcs_by_state], np.arange(n_new + 1)).astype(np.int64)
        steps.append(
            _Step(
                start,
                old[arcs_by_state],
                taken[v][arcs_by_state].astype(np.int16),
                shift[arcs_by_state],
            )
        )
        frontier = [[*frontier, v][k] for k in stay]
    return steps


def _partial_limits(problem: Additive, order: Sequence[int]) -> Floats:
    """Return [V, D]: what a sum may be after each step, if the rest takes its least possible value."""
    high = np.where(problem.allowed[:, :, None], problem.values, np.inf)
    least = high.min(axis=1)
    place = np.empty(len(order), np.int64)
    place[list(order)] = np.arange(len(order))
    for (i, j), value, fine in zip(
        problem.edges.tolist(), problem.pair_values, problem.pair_allowed, strict=True
    ):
        later = i if place[i] > place[j] else j
        if fine.any():
            least[later] += np.where(fine[:, :, None], value, np.inf).min(axis=(0, 1))
    rest = least[list(order)][::-1].cumsum(axis=0)[::-1]
    rest = np.concatenate([rest[1:], np.zeros((1, rest.shape[1]))])
    slack = _ROUNDING * np.abs(problem.values).max(axis=1).sum(axis=0)
    limits: Floats = problem.upper + slack - rest
    return limits


def _range(problem: Additive, steps: Sequence[_Step], limits: Floats) -> float:
    """Return the range of the first quantity over the front: from its least to that at the least second."""
    ends: list[float] = []
    for first, second in ((0, 1), (1, 0)):  # a run without end keeps the least second quantity only
        x, y, start = np.zeros(1), np.zeros(1), np.array([0, 1])
        for t, step in enumerate(steps):
            x, y, _, _, start = merge_fronts(
                x,
                y,
                start,
                step.arc_start,
                step.arc_state,
                np.ascontiguousarray(step.shift[:, first]),
                np.ascontiguousarray(step.shift[:, second]),
                limits[t, first],
                limits[t, second],
                np.inf,
                0.0,
            )
        if not len(x):
            return 0.0
        ends.append(float(x[0] if first == 0 else y[0]))
    return max(0.0, ends[0] - ends[1])


def _advance_two(
    sets: _Sets, step: _Step, limit: Floats, tolerance: Floats, fixed: Floats, cap: int
) -> tuple[_Sets, Floats]:
    x, y, parent, arc, start = merge_fronts(
        np.ascontiguousarray(sets.values[:, 0]),
        np.ascontiguousarray(sets.values[:, 1]),
        sets.start,
        step.arc_start,
        step.arc_state,
        np.ascontiguousarray(step.shift[:, 0]),
        np.ascontiguousarray(step.shift[:, 1]),
        limit[0],
        limit[1],
        max(tolerance[0], fixed[0]),
        tolerance[1],
    )
    added = fixed.copy()
    scheme = step.arc_scheme[arc]
    if len(x) > cap:
        width = float(x.max() - x.min()) * (len(start) - 1) / cap
        kept = thin_fronts(x, start, width)
        while len(kept) > cap:
            width *= 1.5
            kept = thin_fronts(x, start, width)
        start = np.searchsorted(kept, start).astype(np.int64)
        x, y, parent, scheme = x[kept], y[kept], parent[kept], scheme[kept]
        added = added + np.array([width, 0.0])
    return _Sets(np.stack([x, y], axis=1), start, parent, scheme), added


def _advance_many(
    sets: _Sets, step: _Step, limit: Floats, tolerance: Floats, cap: int
) -> tuple[_Sets, Floats]:
    """One step in three dimensions or more: gather, sort, filter, thin."""
    sieve = filter_three if len(limit) == 3 else filter_sorted
    values: list[Floats] = []
    parents: list[Ints] = []
    schemes: list[NDArray[np.int16]] = []
    sizes = [0]
    for first, last in pairwise(step.arc_start.tolist()):
        arcs = range(first, last)
        spans = [
            np.arange(sets.start[step.arc_state[a]], sets.start[step.arc_state[a] + 1])
            for a in arcs
        ]
        entry = np.concatenate([np.zeros(0, np.int64), *spans])
        arc = np.repeat(np.arange(first, last), [len(span) for span in spans])
        new = sets.values[entry] + step.shift[arc]
        inside = np.flatnonzero((new <= limit).all(axis=1))
        ranked = inside[np.lexsort(new[inside].T[::-1])]
        kept = ranked[sieve(new[ranked], tolerance)]
        values.append(new[kept])
        parents.append(entry[kept])
        schemes.append(step.arc_scheme[arc[kept]])
        sizes.append(len(kept))
    table = np.concatenate(values)
    start = np.cumsum(sizes)
    width = np.zeros(table.shape[1])
    kept = np.arange(len(table))
    share = 1e-4
    while len(kept) > cap:
        width = share * (table.max(axis=0) - table.min(axis=0))
        width[1] = 0.0
        kept = _thin_many(table, start, width)
        share *= 1.5
    return (
        _Sets(
            table[kept],
            np.searchsorted(kept, start).astype(np.int64),
            np.concatenate(parents)[kept].astype(np.int32),
            np.concatenate(schemes)[kept],
        ),
        width,
    )


def _thin_many(table: Floats, start: Ints, width: Floats) -> Ints:
    """Return one entry of each cell of ``width``: the one with the least second quantity."""
    state = np.repeat(np.arange(len(start) - 1), np.diff(start))
    wide = width > 0
    cell = np.floor(table[:, wide] / width[wide]).astype(np.int64)
    keys = np.column_stack([state, cell])
    order = np.lexsort((table[:, 1], *keys.T[::-1]))
    ranked = keys[order]
    first = np.concatenate([[True], (ranked[1:] != ranked[:-1]).any(axis=1)])
    return np.sort(order[first])
