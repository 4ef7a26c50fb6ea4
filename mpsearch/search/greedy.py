"""One change at a time, the best exchange of objectives first."""

from contextlib import suppress

import numpy as np

from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.search.additive.contraction import Reduced
from mpsearch.search.measured.archive import Exhausted
from mpsearch.search.measured.begin import begin
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Floats, Ints


def search(task: Task) -> Front:
    """Return the front along greedy paths from the least last objective down to the least first one.

    Every step takes the single change with the largest fall of the first objective for the rise of the
    last one, boundary terms included. With an evaluator the path is walked on the tables and points
    spread over it are measured.

    Args:
        task: What to search; the path trades the last objective for the first. 200 measured or 10 000
            predicted evaluations if the budget is None.

    Raises:
        ProblemError: There is one objective only.
        InfeasibleError: No assignment meets the constraints.
    """
    if len(task.objectives) < 2:
        raise ProblemError("greedy trades one objective for another, so it needs two")
    start = begin(task, stream=4)
    archive = start.archive
    path = start.repairer.repair(_walk(archive.reduced), start.rng)
    chosen = np.unique(
        np.linspace(0, len(path) - 1, min(archive.budget, len(path))).astype(np.int64)
    )
    with suppress(Exhausted):
        archive.evaluate(path[chosen])
        archive.evaluate(path)
    return archive.front(method="greedy")


SEARCHER = Searcher(search)


def _walk(reduced: Reduced) -> Ints:
    """Return the path [P, V] of single changes."""
    V, S = reduced.allowed.shape
    last = np.where(reduced.allowed, reduced.values[:, :, -1], np.inf)
    row = last.argmin(axis=1)
    path = [row]
    for _ in range(V * S):
        gain, price = _changes(reduced, row)
        better = reduced.allowed & (gain < 0)
        if not better.any():
            break
        worth = np.where(
            better, np.where(price <= 0, np.inf, -gain / np.where(price > 0, price, 1)), -1
        )
        v, s = np.unravel_index(int(worth.argmax()), worth.shape)
        row = row.copy()
        row[v] = s
        path.append(row)
    return np.stack(path)


def _changes(reduced: Reduced, row: Ints) -> tuple[Floats, Floats]:
    """Return what each single change [V, S] does to the first and to the last objective."""
    V = len(row)
    change = reduced.values - reduced.values[np.arange(V), row][:, None, :]
    for (i, j), term in zip(reduced.edges.tolist(), reduced.pair_values, strict=True):
        here = term[row[i], row[j]]
        change[i] += term[:, row[j]] - here
        change[j] += term[row[i], :] - here
    return change[:, :, 0], change[:, :, -1]
