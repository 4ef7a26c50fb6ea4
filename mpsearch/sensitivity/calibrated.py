"""Calibrated: a cheap table corrected by measurements, with error bars that the measurements justify.

A prior (``fisher``; ``sqnr`` where the loss or a layer has no gradient) ranks all entries for the price
of a few evaluations. Then entries are measured one at a time, the largest first as far as plans with
them are of use: an entry that alone brings half of what the lowest precision everywhere does comes
last, and is said to bring no more than that half. What is measured is kept; a law in the prior,
learnt from it, corrects the rest and gives their standard errors. Where the effort reaches every entry
there is no prior; a budget beyond that goes to whole plans, which correct what adding up gets wrong.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from mpsearch.deadline import Deadline, deadline_in, has_passed
from mpsearch.errors import NumericsError
from mpsearch.problem.build import build_problem
from mpsearch.problem.tables import Costs, Progress, Table
from mpsearch.registry import find
from mpsearch.search.task import Task
from mpsearch.sensitivity.selftest import draw_plans, uniform_plans
from mpsearch.sensitivity.shared.corrected_table import correct_by_plans, correct_entries
from mpsearch.sensitivity.shared.effort import suffix_shares
from mpsearch.sensitivity.shared.entries import predict, single_changes
from mpsearch.sensitivity.shared.error_responses import responses_effort
from mpsearch.sensitivity.shared.sampling import Measured, measure_entries
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, Ints

_EFFORT = 1.8  # spent by default, in units of what the prior takes
_SHARE_OF_LARGEST = 0.95  # of the effort for entries
_SHARE_OF_FRONT = 0.5  # of the plans, where costs are given; the rest are random
_USEFUL = 0.5  # of the worst loss: beyond it plans are saturated
_HOPELESS = 1.5  # times the loss that is of use, on the first batch
_DRAWN = 20  # random plans for one that is to be measured


def score(task: MetricTask) -> Table:
    """Measure some entries, and plans if the budget reaches them, and correct the prior by them.

    Where the effort reaches all entries no prior is computed. ``details`` holds it, and 1 where an entry
    was ``measured``.

    Args:
        task: What to score. With costs half of the plans are from the predicted front of latency and
            loss. The budget is what may be spent beside the prior, in evaluations of the whole model; one
            entry costs what it executes again. None spends less than three times what ``fisher`` takes,
            that included, and measures no plans. As many evaluations as there are entries always measure
            all of them, and what is left goes to plans. The deadline's time begins after the prior.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    simulator, costs, budget, progress = task.simulator, task.costs, task.budget, task.progress
    shares = suffix_shares(simulator.graph)
    start = _choose_prior(simulator)
    price = responses_effort(simulator) if start == "fisher" else 1.0
    usual = _EFFORT * max(price, 2 * len(simulator.space.schemes) + 4)
    total = usual if budget is None else float(budget)
    every = single_changes(simulator)
    whole = 2 + float(sum(shares[g] for g, _ in every))
    at_most = total + price if budget is None else total
    left = 0.0 if budget is None else max(0.0, total - whole)  # for plans
    steps = len(every) + int(left)

    def watch(done: int, of: int, text: str) -> None:
        if progress is not None:
            progress(len(every) * done // max(of, 1), steps, text)

    prior: Table | None = None
    if whole > at_most or task.deadline is not None:  # else it has nothing to add
        prior = find("metrics", start).score(MetricTask(simulator, seed=task.seed))
    deadline = None if task.deadline is None else deadline_in(task.deadline.given_s)
    if prior is None:
        table, limit = _measure_all(simulator, watch)
    else:
        table, limit = _measure_some(simulator, prior, shares, total, deadline, watch)
    if left < 1 or table.notes:
        if progress is not None:
            progress(steps, steps, "entries measured")
        return table

    def watch_plans(done: float) -> None:
        if progress is not None:
            progress(min(steps, len(every) + int(done)), steps, "measuring plans")

    drawn = draw_useful_plans(table, costs, int(left), limit, task.seed)
    plans, losses, cost = _measure_plans(simulator, drawn, left, limit, deadline, watch_plans)
    moved = correct_by_plans(table.values, table.allowed, plans, losses)
    return replace(
        table,
        values=moved,
        # what an entry does alone and what it adds to a plan differ: that too is unknown
        stderr=np.hypot(table.stderr, moved - table.values),
        cost_plans=table.cost_plans + cost,
        notes=_late_notes(deadline, len(plans)),
    )


METRIC = Metric(score, stops_early=True)


def _late_notes(deadline: Deadline | None, n_plans: int) -> tuple[str, ...]:
    if deadline is None or not deadline.passed:
        return ()
    return (f"stopped by the time budget of {deadline.given_s} s after {n_plans} plans",)


def _measure_all(simulator: Simulator, progress: Progress) -> tuple[Table, float]:
    """Every entry measured, as ``perturbation`` does, and the loss above which plans are of no use."""
    table = find("metrics", "perturbation").score(MetricTask(simulator, progress=progress))
    known = table.allowed.astype(np.float64)
    known[:, simulator.space.index(simulator.space.base)] = 0
    limit = _USEFUL * _worst_loss(simulator, table)
    cost = table.cost_plans + 1
    details = {"measured": known}
    return _cap(replace(table, metric="calibrated", details=details, cost_plans=cost), limit), limit


def _measure_some(
    simulator: Simulator,
    prior: Table,
    shares: Floats,
    effort: float,
    deadline: Deadline | None,
    progress: Progress,
) -> tuple[Table, float]:
    """The prior corrected by the entries that an effort reaches, and the loss above which plans are of no use."""
    limit = _USEFUL * _worst_loss(simulator, prior)
    told = limit if prior.unit == simulator.unit else float("inf")
    chosen = choose_entries(prior, single_changes(simulator), shares, effort - 2, told)
    found = measure_entries(simulator, chosen, deadline=deadline, progress=progress)
    cost = prior.cost_plans + 2 + float(sum(shares[g] for g, _ in chosen))
    return _cap(replace(_correct(simulator, prior, found), cost_plans=cost), limit), limit


def _cap(table: Table, limit: float) -> Table:
    """``table`` without values above ``limit``; what is cut off is not known."""
    kept = np.minimum(table.values, limit)
    return replace(table, values=kept, stderr=np.hypot(table.stderr, table.values - kept))


def _correct(simulator: Simulator, prior: Table, found: Measured) -> Table:
    """The prior corrected by measured entries."""
    shape = prior.values.shape
    measured, errors, known = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_)
    for entry, change in found.changes.items():
        measured[entry], errors[entry] = simulator.estimate(change)
        known[entry] = True
    allowed, reasons = simulator.allowed.copy(), dict(simulator.reasons)
    for (g, s), why in found.refused.items():
        allowed[g, s] = False
        reasons[simulator.groups[g], prior.schemes[s]] = why
    entries = allowed.copy()
    entries[:, simulator.space.index(simulator.space.base)] = False
    kinds = np.array([scheme.sparsity is not None for scheme in simulator.space.schemes], np.int64)
    values, stderr = correct_entries(prior, measured, errors, known, entries, kinds)
    return replace(
        prior,
        metric="calibrated",
        unit=simulator.unit,
        values=values,
        stderr=stderr,
        allowed=allowed,
        reasons=reasons,
        details={"prior": prior.values, "measured": known.astype(np.float64)},
        notes=found.notes,
    )


def _measure_plans(
    simulator: Simulator,
    drawn: Ints,
    effort: float,
    limit: float,
    deadline: Deadline | None,
    progress: Callable[[float], None],
) -> tuple[Ints, Floats, float]:
    """Measure [P, G] plans until the effort is spent: those of use, their losses, what that cost.

    A plan that loses far more than ``limit`` on its first batch is left there.
    """
    plans, losses, spent = [], [], 0.0
    first = 1 / simulator.n_batches
    for plan in drawn:
        if spent + 1 > effort or has_passed(deadline):
            break
        progress(spent)
        with suppress(NumericsError):
            spent += first
            if simulator.losses(plan, [0]).mean() > _HOPELESS * limit:
                continue
            spent += 1 - first
            loss = simulator.loss(plan).mean
            if loss <= limit:
                plans.append(plan)
                losses.append(loss)
    progress(effort)
    return np.array(plans).reshape(-1, drawn.shape[1]), np.array(losses), spent


def _choose_prior(simulator: Simulator) -> str:
    """Name of the metric to start from: ``fisher``, where all layers have a gradient."""
    cut_off = simulator.loss_kind == "quality" or simulator.layers_without_gradient()
    return "sqnr" if cut_off else "fisher"


def _worst_loss(simulator: Simulator, prior: Table) -> float:
    """Loss of the uniform plan that the prior predicts to be worst; infinite where that is not surely above 0."""
    uniform = uniform_plans(simulator)
    with suppress(NumericsError):
        loss = simulator.loss(uniform[int(np.argmax(predict(prior, uniform)))])
        if loss.mean > 1.96 * loss.stderr:
            return loss.mean
    return float("inf")


def choose_entries(
    prior: Table, entries: list[tuple[int, int]], shares: Floats, effort: float, limit: float
) -> list[tuple[int, int]]:
    """Return the entries to measure, in the order of their use.

    Nearly all are the largest, but those above ``limit`` come last: no plan that is of use holds them.
    The others are spread over the order of what is left, so that the law holds there too.

    Args:
        prior: What is known of the entries.
        entries: (group, scheme) of each.
        shares: [G] what measuring an entry of a group costs, in evaluations.
        effort: Evaluations that may be spent; all entries if they are no more than that.
        limit: Loss above which plans are of no use.
    """
    if len(entries) <= effort:
        return entries
    ordered = sorted(entries, key=lambda entry: (prior.values[entry] > limit, -prior.values[entry]))
    largest = _affordable(ordered, shares, _SHARE_OF_LARGEST * effort)
    rest = ordered[len(largest) :]
    spread = [rest[i] for i in _spread_order(len(rest))]
    left = effort - float(sum(shares[g] for g, _ in largest))
    return largest + _affordable(spread, shares, left)


def _affordable(
    entries: list[tuple[int, int]], shares: Floats, effort: float
) -> list[tuple[int, int]]:
    spent = np.cumsum([shares[g] for g, _ in entries])
    return entries[: int((spent <= effort).sum())]


def _spread_order(count: int) -> list[int]:
    """Return 0 … count − 1 so that every beginning of it is spread evenly: van der Corput's order."""
    bits = max(count - 1, 1).bit_length()
    mirrored = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
    return [i for i in mirrored if i < count]


def draw_useful_plans(
    table: Table, costs: Costs | None, count: int, limit: float, seed: int
) -> Ints:
    """Return [P, G] plans to measure, without doubles: front plans first, then more random ones than needed.

    An entry counts for at most half of ``limit`` here: alone, in a model that is exact elsewhere, it may be
    far worse than in the plans that hold it, and only such plans can tell.

    Args:
        table: What is known so far.
        costs: If given, half of ``count`` are from the predicted front of latency and loss.
        count: Plans that are to be measured.
        limit: Predicted loss above which a plan is left out.
        seed: Seed of the random plans.
    """
    lenient = replace(table, values=np.minimum(table.values, 0.5 * limit))
    drawn = draw_plans(table.allowed, _DRAWN * count, seed=seed + 1)
    plans = [drawn[predict(lenient, drawn) <= limit]]
    if costs is not None:
        front = find("searchers", "hull").search(Task(build_problem(table, costs))).assignments
        useful = front[predict(table, front) <= limit]
        steps = np.linspace(0, len(useful) - 1, min(len(useful), int(_SHARE_OF_FRONT * count)))
        plans.insert(0, useful[steps.round().astype(np.int64)])
    together = np.concatenate(plans)
    _, first = np.unique(together, axis=0, return_index=True)
    return np.asarray(together[np.sort(first)], np.int64)
