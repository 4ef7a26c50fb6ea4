"""Interactions: what two groups do to the loss together, beyond the sum of what each does.

Source: CLADO (arXiv 2307.05657), pairwise terms of the loss; here measured directly, for groups that are
neighbours in the dataflow, the most harmful entries first, as far as a budget reaches.
"""

from dataclasses import replace

import numpy as np

from mpsearch.problem.tables import Table
from mpsearch.registry import find
from mpsearch.sensitivity.shared.additivity import say_residual, unexplained
from mpsearch.sensitivity.shared.entries import (
    base_assignment,
    change_one,
    finite_loss,
    single_changes,
)
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, Ints

DEFAULT_PAIRS = 100


def score(task: MetricTask) -> Table:
    """Measure each group at each scheme, then pairs of neighbours at the entries that hurt most.

    The pair term of (g, s) and (h, t) is loss(both) − loss(g, s) − loss(h, t) + loss(neither); what was
    not measured has none. A note says how much of the measured pairs' loss is not the sum of the two.

    Args:
        task: What to score; no budget measures every entry and 100 pairs. Nothing is drawn.

    Raises:
        InfeasibleError: The budget does not reach all single entries.
    """
    simulator, progress = task.simulator, task.progress
    single = find("metrics", "perturbation").score(replace(task, progress=None))
    left = (
        DEFAULT_PAIRS if task.budget is None else task.budget - len(single_changes(simulator)) - 1
    )
    pairs = _choose_pairs(simulator, single, left)
    edges = np.array(sorted({(g, h) for g, _, h, _ in pairs}), np.int64).reshape(-1, 2)
    place = {(int(g), int(h)): e for e, (g, h) in enumerate(edges)}
    n_schemes = len(simulator.space.schemes)
    terms = np.zeros((len(edges), n_schemes, n_schemes))
    base = base_assignment(simulator)
    neither = simulator.loss(base).mean
    sums, together = [], []
    for done, (g, s, h, t) in enumerate(pairs):
        if progress is not None:
            progress(done, len(pairs), f"{simulator.groups[g]} with {simulator.groups[h]}")
        both = finite_loss(simulator, change_one(change_one(base, g, s), h, t))
        if both is not None:  # else there is no such plan, and nothing to predict of it
            alone = single.values[g, s] + single.values[h, t]
            terms[place[g, h], s, t] = both - neither - alone
            sums.append(alone)
            together.append(both - neither)
    if progress is not None:
        progress(len(pairs), len(pairs), "pairs measured")
    return replace(
        single,
        metric="interactions",
        edges=edges,
        pair_terms=terms,
        cost_plans=single.cost_plans + len(pairs),
        notes=(*single.notes, *_pair_notes(np.array(sums), np.array(together))),
    )


METRIC = Metric(score, measures=True)


def _pair_notes(sums: Floats, together: Floats) -> tuple[str, ...]:
    if not len(sums):
        return ()
    return (say_residual(unexplained(sums, together), f"{len(sums)} measured pairs'"),)


def _choose_pairs(
    simulator: Simulator, single: Table, count: int
) -> list[tuple[int, int, int, int]]:
    """(group, scheme, group, scheme) of neighbours, the largest geometric mean of losses first.

    By Cauchy and Schwarz an interaction of second order is at most twice that mean.
    """
    base = simulator.space.index(simulator.space.base)
    values: Floats = np.sqrt(np.maximum(single.values, 0.0))
    found = [
        (float(values[g, s] * values[h, t]), (g, s, h, t))
        for g, h in neighbours(simulator).tolist()
        for s in np.flatnonzero(single.allowed[g]).tolist()
        for t in np.flatnonzero(single.allowed[h]).tolist()
        if s != base and t != base
    ]
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    return [pair for _, pair in found[: max(count, 0)]]


def neighbours(simulator: Simulator) -> Ints:
    """Return [E, 2] pairs of groups between which data flow, the smaller index first."""
    group_of = {i: g for g, group in enumerate(simulator.graph.groups) for i in group.layers}
    pairs = {
        (min(a, b), max(a, b))
        for edge in simulator.graph.edges
        if (a := group_of[edge.source]) != (b := group_of[edge.target])
    }
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
