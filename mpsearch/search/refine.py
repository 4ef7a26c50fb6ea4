"""Predict, solve, measure, refit: whole plans correct the table until the budget ends."""

from contextlib import suppress

import numpy as np

from mpsearch import registry
from mpsearch.problem.front import Front
from mpsearch.problem.pareto import thin
from mpsearch.search.additive.price_sweep import PricedFronts
from mpsearch.search.measured.archive import Archive, Exhausted
from mpsearch.search.measured.begin import Start, begin
from mpsearch.search.measured.improvement import expected_improvement
from mpsearch.search.measured.racing import Race
from mpsearch.search.measured.repair import draw_allowed, draw_segments
from mpsearch.search.measured.table_regression import correct_objective
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Floats, Ints

_FIRST = 12  # plans measured before the first refit
_BATCH = 4  # plans measured between refits
_BOLD = (
    0.3  # of a deviation counts: the best of hundreds of candidates is else the least certain one
)
_FIELD = 300  # candidates, the most promising, among which a batch is chosen
_FRONT = 250  # points of the first predicted front
_REPAIRED = 60
_DRAWS = 2  # fronts of tables drawn from the posterior
_NEIGHBOURS = 400
_SHARE = 25  # of what was measured, one in so many is measured between refits, if that is more


def search(
    task: Task,
    *,
    fraction: float = 1.0,
) -> Front:
    """Return the measured front of plans that a corrected table proposes.

    First a few points spread over the predicted front are measured. Then, until the budget ends: the
    table is corrected by all measured plans, the exact front is solved on the corrected table and on
    tables drawn from its posterior, and of those points and of neighbours of the measured front the ones
    with the largest expected hypervolume improvement are measured.

    Args:
        task: What to search; improvement is judged on ``loss`` and the first other objective. Without an
            evaluator, or with ``loss`` not among the objectives, the front is ``exact``'s. 200
            measurements if the budget is None.
        fraction: Below 1, twice as many plans race on this part of the data, which counts towards the
            budget, and those that still promise most are measured on all of it.

    Raises:
        InfeasibleError: No assignment meets the constraints.
    """
    if task.evaluator is None or "loss" not in task.objectives or len(task.objectives) < 2:
        return registry.find("searchers", "exact").search(task)
    start = begin(task, stream=7)
    archive, repairer, rng = start.archive, start.repairer, start.rng
    race = Race(fraction) if fraction < 1 else None
    loss, known = _columns(archive.names)
    fronts = PricedFronts(repairer.reduced, known=known, loss=loss)
    with suppress(Exhausted):
        plans = fronts.solve(archive.reduced.values[..., loss], rng)
        plans = repairer.repair(plans[thin(archive.totals(plans), _FRONT)], rng)
        first = min(_FIRST, max(2, archive.budget // 3))
        ends = max(2, first // 3)
        archive.evaluate(plans[thin(archive.totals(plans), ends)])
        archive.evaluate(plans[_spread(archive, plans, first - ends)])
        while True:
            rows = _propose(start, fronts, race)
            losses = archive.evaluate(rows)[:, archive.names.index("loss")]
            if race is not None:
                race.learn(rows, losses)
    return archive.front(method="refine")


SEARCHER = Searcher(search)


def _propose(start: Start, fronts: PricedFronts, race: Race | None) -> Ints:
    """Return the next assignments of variables to measure."""
    archive, repairer, rng = start.archive, start.repairer, start.rng
    reduced = archive.reduced
    rows, values, feasible = archive.evaluated
    loss, known = _columns(archive.names)
    fit = correct_objective(reduced, loss, rows, values[:, loss])
    measured = values[feasible][:, [known, loss]]
    pool = [fronts.solve(fit.table, rng)]
    pool += [fronts.solve(fit.draw(rng), rng) for _ in range(_DRAWS)]
    if not repairer.feasible(pool[0]).any():  # the prices found nothing within the limits
        pool[0] = repairer.repair(pool[0][thin(archive.totals(pool[0]), _REPAIRED)], rng)
    pool.append(_neighbours(archive, rng))
    candidates = np.unique(np.concatenate(pool), axis=0)
    candidates = candidates[~archive.known(candidates)]
    candidates = candidates[repairer.feasible(candidates)] if len(candidates) else candidates
    count = max(_BATCH, len(rows) // _SHARE)
    if not len(candidates):
        return repairer.draw(count, rng)
    mean, deviation = fit.predict(candidates)
    deviation = _BOLD * deviation
    cost = archive.totals(candidates)[:, known]
    everything = np.concatenate([measured, np.stack([cost, mean], axis=1)])
    reference = _reference(measured if len(measured) else everything, everything)
    if race is None:
        return candidates[_best(measured, reference, cost, mean, deviation, count)]
    field = _best(measured, reference, cost, mean, deviation, 2 * count)
    mean, deviation = race.look(archive, candidates[field], mean[field], deviation[field])
    winners = _best(measured, reference, cost[field], mean, deviation, count)
    return candidates[field[winners]]


def _best(
    measured: Floats, reference: Floats, cost: Floats, mean: Floats, deviation: Floats, count: int
) -> Ints:
    """Return the ``count`` candidates that promise most, each one believed before the next is chosen."""
    gain = expected_improvement(measured, reference, cost, mean, deviation)
    field = np.argsort(-gain, kind="stable")[:_FIELD]
    cost, mean, deviation = cost[field], mean[field], deviation[field]
    chosen: list[int] = []
    believed = measured
    for _ in range(min(count, len(field))):
        gain = expected_improvement(believed, reference, cost, mean, deviation)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        believed = np.concatenate([believed, [[cost[best], mean[best]]]])
    return field[chosen]


def _spread(archive: Archive, plans: Ints, count: int) -> Ints:
    """Return the indices of ``count`` of ``plans`` [P, V], spread as their losses are now expected.

    Sums overestimate the losses of aggressive plans, which saturate: spread by sums, most of a few
    measurements would go where all plans are as bad as each other.
    """
    rows, values, _ = archive.evaluated
    loss, known = _columns(archive.names)
    mean, _ = correct_objective(archive.reduced, loss, rows, values[:, loss]).predict(plans)
    totals = archive.totals(plans)
    fresh = np.flatnonzero(~archive.known(plans))
    return fresh[thin(np.stack([totals[:, known], mean], axis=1)[fresh], max(1, count))]


def _columns(names: tuple[str, ...]) -> tuple[int, int]:
    loss = names.index("loss")
    return loss, next(k for k in range(len(names)) if k != loss)


def _reference(measured: Floats, everything: Floats) -> Floats:
    """Return the corner within which improvement counts: a little beyond the measured front."""
    low, high = everything.min(axis=0), measured.max(axis=0)
    corner: Floats = high + 0.05 * np.maximum(high - low, 1e-12 * np.abs(high) + 1e-300)
    return corner


def _neighbours(archive: Archive, rng: np.random.Generator) -> Ints:
    """Return changes of one to three variables of plans on the measured front."""
    rows, values, feasible = archive.evaluated
    front = rows[archive.on_front(values, feasible)]
    if not len(front):
        front = rows
    V = archive.reduced.n_variables
    picked = front[rng.integers(len(front), size=_NEIGHBOURS)]
    change = rng.random(picked.shape) < (rng.integers(1, 4, size=_NEIGHBOURS) / V)[:, None]
    changed = np.where(change, draw_allowed(archive.reduced.allowed, _NEIGHBOURS, rng), picked)
    return np.concatenate([changed, _crossed(front, rng)])


def _crossed(front: Ints, rng: np.random.Generator) -> Ints:
    """Return mixes of two plans of the front, cut at two places."""
    pairs = rng.integers(len(front), size=(_NEIGHBOURS // 4, 2))
    inside = draw_segments(len(pairs), front.shape[1], rng)
    return np.where(inside, front[pairs[:, 1]], front[pairs[:, 0]])
