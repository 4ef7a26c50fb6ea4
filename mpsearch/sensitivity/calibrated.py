"""Calibrated: a cheap table corrected by measurements, with error bars that the measurements justify.

A prior (``fisher``; ``sqnr`` where the loss or a layer has no gradient) ranks all entries for the price
of a few evaluations. Then entries are measured one
at a time, the largest first as far as plans with them are of use: an entry that alone brings half of
what the lowest precision everywhere does comes last. What is measured is kept; a power law in the
prior, shrunk towards the prior itself, corrects the rest, and the held-out residuals of that law
are their standard errors. A budget beyond all entries goes to whole plans, which correct what adding
up gets wrong.
"""

from dataclasses import replace

import numpy as np

from mpsearch.errors import NumericsError
from mpsearch.execute.simulator import Simulator
from mpsearch.problem import build_problem
from mpsearch.registry import find
from mpsearch.sensitivity.correction import correct_by_plans, correct_entries
from mpsearch.sensitivity.effort import suffix_shares
from mpsearch.sensitivity.ranking import predict, saturated
from mpsearch.sensitivity.sampling import measure_entries
from mpsearch.sensitivity.selftest import draw_plans, uniform_plans
from mpsearch.sensitivity.single import single_changes
from mpsearch.tables import Costs, Floats, Ints, Progress, Table

_EFFORT = 3.0  # spent by default, in units of what the prior takes
_SHARE_OF_LARGEST = 0.8  # of the effort for entries
_SHARE_OF_FRONT = 0.5  # of the plans, where costs are given; the rest are random


def score(
    simulator: Simulator,
    *,
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    seconds: float | None = None,
) -> Table:
    """Measure some entries, and plans if the budget reaches them, and correct the prior by them.

    ``details`` holds the ``prior`` and 1 where an entry was ``measured``.

    Args:
        simulator: The model and its data.
        costs: If given, half of the plans are from the predicted front of latency and loss.
        budget: What may be spent beside the prior, in evaluations of the whole model; one entry costs
            what it executes again. None spends three times what the prior takes. As many evaluations
            as there are entries always measure all of them, and what is left goes to plans.
        seed: Seed of the prior and of the plans.
        progress: Told the measurements that are done.
        seconds: Time after the prior at which no further entry is begun; None has no end.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    prior: Table = find("metrics", _choose_prior(simulator))(simulator, seed=seed)
    usual = _EFFORT * max(prior.cost_plans, len(prior.schemes) + 4)
    total = usual if budget is None else float(budget)
    top = _worst_loss(simulator, prior)
    shares = suffix_shares(simulator.graph)
    limit = 0.5 * top if prior.unit == simulator.unit else float("inf")
    chosen = choose_entries(prior, single_changes(simulator), shares, total - 2, limit)
    spent = 2 + float(sum(shares[g] for g, _ in chosen))
    complete = len(chosen) == len(single_changes(simulator))
    n_plans = max(0, int(total - spent)) if complete else 0
    steps = len(chosen) + n_plans

    def measuring(done: int, of: int, text: str) -> None:
        if progress is not None:
            progress(len(chosen) * done // max(of, 1), steps, text)

    found = measure_entries(simulator, chosen, seconds=seconds, progress=measuring)
    shape = prior.values.shape
    measured, errors, known = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_)
    for entry, change in found.changes.items():
        measured[entry], errors[entry] = simulator.estimate(change)
        known[entry] = True
    entries, reasons = simulator.allowed.copy(), dict(simulator.reasons)
    for (g, s), why in found.refused.items():
        entries[g, s] = False
        reasons[simulator.groups[g], prior.schemes[s]] = why
    allowed = entries.copy()
    entries[:, simulator.space.index(simulator.space.base)] = False
    values, stderr = correct_entries(prior, measured, errors, known, entries)
    table = replace(
        prior,
        metric="calibrated",
        unit=simulator.unit,
        values=values,
        stderr=stderr,
        allowed=allowed,
        reasons=reasons,
        details={"prior": prior.values, "measured": known.astype(np.float64)},
        cost_plans=prior.cost_plans + spent,
        notes=found.notes,
    )
    plans = choose_plans(table, costs, 0 if found.notes else n_plans, 0.5 * top, seed)
    losses = np.zeros(len(plans))
    for done, plan in enumerate(plans):
        if progress is not None:
            progress(len(chosen) + done, steps, "measuring plans")
        losses[done] = simulator.loss(plan).mean
    if progress is not None:
        progress(steps, steps, "table corrected")
    useful = ~saturated(losses, top)
    moved = correct_by_plans(values, plans[useful], losses[useful])
    # what an entry does alone and what it adds to a plan differ: that too is unknown
    return replace(
        table,
        values=moved,
        stderr=np.hypot(stderr, moved - values),
        cost_plans=table.cost_plans + len(plans),
    )


def _choose_prior(simulator: Simulator) -> str:
    """Name of the metric to start from: ``fisher``, where all layers have a gradient."""
    cut_off = simulator.loss_kind == "quality" or simulator.layers_without_gradient()
    return "sqnr" if cut_off else "fisher"


def _worst_loss(simulator: Simulator, prior: Table) -> float:
    """Loss of the uniform plan that the prior predicts to be worst; infinite where it overflows."""
    uniform = uniform_plans(simulator)
    try:
        return simulator.loss(uniform[int(np.argmax(predict(prior, uniform)))]).mean
    except NumericsError:
        return float("inf")


def choose_entries(
    prior: Table, entries: list[tuple[int, int]], shares: Floats, effort: float, limit: float
) -> list[tuple[int, int]]:
    """Return the entries to measure, in the order of their use.

    Four of five are the largest, but those above ``limit`` come last: no plan that is of use holds them.
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
    return entries[: max(2, int((spent <= effort).sum()))]


def _spread_order(count: int) -> list[int]:
    """Return 0 … count − 1 so that every beginning of it is spread evenly: van der Corput's order."""
    bits = max(count - 1, 1).bit_length()
    mirrored = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
    return [i for i in mirrored if i < count]


def choose_plans(table: Table, costs: Costs | None, count: int, limit: float, seed: int) -> Ints:
    """Return at most [count, G] plans that are predicted to lose at most ``limit``, without doubles."""
    drawn = draw_plans(table.allowed, 20 * max(count, 0), seed=seed + 1)
    plans = [drawn[predict(table, drawn) <= limit]]
    if costs is not None:
        front = find("searchers", "hull")(build_problem(table, costs)).assignments
        useful = front[predict(table, front) <= limit]
        steps = np.linspace(0, len(useful) - 1, min(len(useful), int(_SHARE_OF_FRONT * count)))
        plans.insert(0, useful[steps.round().astype(np.int64)])
    together = np.concatenate(plans)
    _, first = np.unique(together, axis=0, return_index=True)
    return np.asarray(together[np.sort(first)[: max(count, 0)]], np.int64)
