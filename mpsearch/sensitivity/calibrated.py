"""Calibrated: a cheap table corrected by measurements, with error bars that the measurements justify.

A prior (``fisher``; ``sqnr`` where the loss or a layer has no gradient) ranks all entries for the price
of a few evaluations. Then entries are measured one at a time, those first that weigh most in plans of the kind that
searches visit. What is measured is kept; a law in the prior, learnt from it, corrects the rest. A quarter of the effort
goes to such plans as a whole: they tell how what entries lose alone adds up, and what it counts for in plans.
Where the effort reaches every entry and some plans there is no prior; a budget beyond that goes to plans.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from mpsearch.deadline import Deadline, deadline_in, has_passed
from mpsearch.errors import NumericsError
from mpsearch.problem.tables import Progress, Table
from mpsearch.registry import find
from mpsearch.sensitivity.selftest import uniform_plans
from mpsearch.sensitivity.shared.corrected_table import correct_by_plans, correct_entries
from mpsearch.sensitivity.shared.effort import suffix_shares
from mpsearch.sensitivity.shared.entries import predict, single_changes
from mpsearch.sensitivity.shared.error_responses import responses_effort
from mpsearch.sensitivity.shared.plan_draws import draw_useful_plans, draw_visited, weigh_entries
from mpsearch.sensitivity.shared.sampling import Measured, measure_entries
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, Ints

_EFFORT = 1.15  # spent by default beside the prior, in units of what that takes
_WITHOUT_PRIOR = 1.8  # in these units, where no prior is computed
_SHARE_OF_PLANS = 0.27  # of the effort
_USEFUL = 0.5  # of the worst loss: beyond it plans are saturated
_HOPELESS = 1.5  # times the loss that is of use, on the first batch
_AT_LEAST = 0.1  # evaluations that an entry takes, however little it executes again
_ANNOUNCED = 32  # plans that are measured at once where there are workers
_VISITED = 150  # random plans that say which entries matter


def score(task: MetricTask) -> Table:
    """Measure some entries and some plans, and correct the prior by them.

    Where the effort reaches all entries no prior is computed. ``details`` holds it, 1 where an entry
    was ``measured``, and the values ``alone``: before plans corrected them.

    Args:
        task: What to score. With costs some of the plans are from the predicted front of latency and
            loss. The budget is what may be spent beside the prior, in evaluations of the whole model; one
            entry costs what it executes again. None spends at most three times what ``fisher`` takes,
            that included. As many evaluations as there are entries always measure
            all of them, and what is left goes to plans. The deadline's time begins after the prior.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    simulator, budget, progress = task.simulator, task.budget, task.progress
    shares = suffix_shares(simulator.graph)
    start = _choose_prior(simulator)
    price = responses_effort(simulator) if start == "fisher" else 1.0
    unit = max(price, 2.0 * len(simulator.space.schemes) + 4)
    total = _EFFORT * unit if budget is None else float(budget)
    every = single_changes(simulator)
    whole = 2 + float(sum(shares[g] for g, _ in every))
    left = _SHARE_OF_PLANS * total  # for plans
    if budget is None:
        reached = whole + left <= _WITHOUT_PRIOR * unit
        left = min(2 * left, _WITHOUT_PRIOR * unit - whole) if reached else left
    else:
        reached = whole <= total
        left = total - whole if reached else left
    steps = len(every) + int(left)

    def watch(done: int, of: int, text: str) -> None:
        if progress is not None:
            progress(len(every) * done // max(of, 1), steps, text)

    prior: Table | None = None
    if not reached or task.deadline is not None:  # else it has nothing to add
        prior = find("metrics", start).score(MetricTask(simulator, seed=task.seed))
    deadline = None if task.deadline is None else deadline_in(task.deadline.given_s)
    if prior is None:
        table, limit = _measure_all(simulator, watch)
    else:
        effort = max(total - left, whole if reached else 0.0)
        table, limit = _measure_some(task, prior, shares, effort, deadline, watch)
    if left < 1 or table.notes:
        if progress is not None:
            progress(steps, steps, "entries measured")
        return table

    def watch_plans(done: float) -> None:
        if progress is not None:
            progress(min(steps, len(every) + int(done)), steps, "measuring plans")

    schemes = simulator.space.schemes
    drawn = draw_useful_plans(table, schemes, task.costs, int(left), limit, task.seed)
    plans, losses, cost = _measure_plans(simulator, drawn, left, limit, deadline, watch_plans)
    values, stderr = correct_by_plans(table, _kinds(simulator), plans, losses, limit)
    return replace(
        table,
        values=values,
        stderr=stderr,
        details={**table.details, "alone": table.values},
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
    task: MetricTask,
    prior: Table,
    shares: Floats,
    effort: float,
    deadline: Deadline | None,
    progress: Progress,
) -> tuple[Table, float]:
    """The prior corrected by the entries that an effort reaches, and the loss above which plans are of no use."""
    simulator = task.simulator
    limit = _USEFUL * _worst_loss(simulator, prior)
    told = limit if prior.unit == simulator.unit else float("inf")
    schemes = simulator.space.schemes
    visited = draw_visited(prior, schemes, task.costs, _VISITED, told, task.seed)
    weights = weigh_entries(prior, np.concatenate(visited))
    chosen = choose_entries(weights, single_changes(simulator), shares, effort - 2)
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
    values, stderr = correct_entries(prior, measured, errors, known, entries, _kinds(simulator))
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
    for number, plan in enumerate(drawn):
        if deadline is None and number % _ANNOUNCED == 0:  # those that are surely reached
            _announce(
                simulator, drawn[number : number + min(_ANNOUNCED, int(effort - spent))], limit
            )
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


def _announce(simulator: Simulator, plans: Ints, limit: float) -> None:
    """Have workers, if any, measure [P, G] plans as :func:`_measure_plans` will."""
    simulator.announce(plans, [0])
    useful = []
    for plan in plans:
        with suppress(NumericsError):
            if simulator.losses(plan, [0]).mean() <= _HOPELESS * limit:
                useful.append(plan)
    simulator.announce(np.array(useful).reshape(-1, plans.shape[1]))


def _kinds(simulator: Simulator) -> Ints:
    """[S] 1 for sparse schemes."""
    return np.array([scheme.sparsity is not None for scheme in simulator.space.schemes], np.int64)


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
    weights: Floats, entries: list[tuple[int, int]], shares: Floats, effort: float
) -> list[tuple[int, int]]:
    """Return the entries to measure, those first that matter most for what they cost.

    Args:
        weights: [G, S] how much each entry matters.
        entries: (group, scheme) of each.
        shares: [G] what measuring an entry of a group costs, in evaluations.
        effort: Evaluations that may be spent; all entries if they are no more than that.
    """
    if len(entries) <= effort:
        return entries
    ordered = sorted(entries, key=lambda entry: -weights[entry] / (_AT_LEAST + shares[entry[0]]))
    spent = np.cumsum([shares[g] for g, _ in ordered])
    return ordered[: int((spent <= effort).sum())]
