"""Elimination orders: which variable next, so that few others must be remembered."""

from collections.abc import Sequence

import numpy as np

from mpsearch.stats.estimates import Ints


def find_order(sizes: Ints, edges: Ints) -> list[int]:
    """Return an elimination order of V variables with narrow frontiers.

    The best, by the number of (state, scheme) combinations, of the given order and of greedy ones:
    next the variable that leaves the narrowest frontier, from several starts.

    Args:
        sizes: [V] allowed schemes of each variable.
        edges: [E, 2].
    """
    n = len(sizes)
    near: list[set[int]] = [set() for _ in range(n)]
    for i, j in edges.tolist():
        near[i].add(j)
        near[j].add(i)
    weight = np.log2(np.maximum(sizes, 1)).tolist()
    free = [v for v in range(n) if not near[v]]
    linked = [v for v in range(n) if near[v]]
    best = free + linked
    best_cost = _cost(best, near, weight)
    by_degree = sorted(linked, key=lambda v: (len(near[v]), v))
    starts = dict.fromkeys([*linked[:1], *by_degree[:3], *linked[-1:]])
    for start in starts if n <= 3000 else ():
        order = free + _greedy(start, linked, near, weight)
        cost = _cost(order, near, weight)
        if cost < best_cost * (1 - 1e-9):
            best, best_cost = order, cost
    return best


def _cost(order: Sequence[int], near: Sequence[set[int]], weight: Sequence[float]) -> float:
    """Return the number of (state, scheme) combinations that ``order`` passes through."""
    left = [len(neighbours) for neighbours in near]
    seen = [False] * len(near)
    frontier, total = 0.0, 0.0
    for v in order:
        total += 2.0 ** min(frontier + weight[v], 200.0)
        seen[v] = True
        frontier += weight[v] if left[v] else 0.0
        for u in near[v]:
            left[u] -= 1
            if seen[u] and not left[u]:
                frontier -= weight[u]
    return total


def _greedy(
    start: int, variables: Sequence[int], near: Sequence[set[int]], weight: Sequence[float]
) -> list[int]:
    left = {v: len(near[v]) for v in variables}
    seen: set[int] = set()
    touched: set[int] = set()
    order: list[int] = []

    def growth(v: int) -> float:
        closed = sum(weight[u] for u in near[v] if u in seen and left[u] == 1)
        return (weight[v] if left[v] else 0.0) - closed

    waiting = iter(variables)
    v = start
    while True:
        order.append(v)
        seen.add(v)
        touched.discard(v)
        for u in near[v]:
            left[u] -= 1
            if u not in seen:
                touched.add(u)
        if len(order) == len(variables):
            return order
        if touched:
            v = min(touched, key=lambda u: (growth(u), u))
        else:
            v = next(u for u in waiting if u not in seen)
