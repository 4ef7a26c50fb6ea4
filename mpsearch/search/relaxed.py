"""Differentiable search: softmax weights over schemes, annealed, then rounded to a plan."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.problem.problem import Evaluator
from mpsearch.search.additive.contraction import Reduced
from mpsearch.search.additive.linear_program import (
    Bound,
    Program,
    limit_bounds,
    make_program,
    solve,
)
from mpsearch.search.measured.archive import Exhausted
from mpsearch.search.measured.begin import Start, begin
from mpsearch.search.measured.predicted_start import predicted_plans
from mpsearch.search.measured.table_regression import Correction, correct_objective
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Floats, Ints

_GRADIENT_COST = 9.0  # of a plan's measurement: all schemes forward, and back (5 to 12)
_TINY = 1e-300  # losses may be of any size
_DESCENT = 0.4  # of a target's budget goes to gradients, the rest to roundings
_RATE = 0.5
_TEMPERATURES = (1.0, 0.3)
_SURE = 6.0  # nats: no choice counts as surer than this when rounding
_NOISY = 20  # plans measured at a target before they correct what the probabilities say
_REFIT = 4  # plans measured between corrections
_REPEATED = 30  # plans in a row that were known: there is nothing left to try
_HIGHEST, _BISECTIONS = 1e4, 20  # of prices
_NOISE = (0.3, 2.0)  # of the Gumbel noise of roundings

Gradient = Callable[[Floats], tuple[float, Floats]]
"""Probabilities [V, S] -> loss, and its gradient [V, S]."""


def search(
    task: Task,
    *,
    seeded: bool = False,
    targets: int = 4,
) -> Front:
    """Return the front of plans rounded from continuous ones, at targets of the first objective.

    Each variable holds softmax weights over its schemes. For targets spread evenly between the least and
    the greatest useful value of the first objective, Adam lowers the loss while the temperature falls;
    before every gradient a price on the first objective (Lagrange) brings its expected value to the
    target. The previous target's weights are the start. The plan is the likeliest one that keeps the
    target and all constraints (an integer program). With Gumbel noise on the likelihoods further ones are
    measured; they correct what the probabilities say of each choice. The sensitivity table is not read.

    Args:
        task: What to search: the tables of costs, constraints that are sums, and two objectives of which the
            last one is ``loss``. The evaluator gives losses and gradients, each of which counts as 9
            evaluations; without one the table's expected loss is used. 1 000 if the budget is None.
        seeded: Measure as many plans of the predicted front as there are targets too.
        targets: How many.

    Raises:
        ProblemError: The objectives are not one cost and ``loss``, or a constraint is code.
        InfeasibleError: No assignment meets the constraints.
    """
    if len(task.objectives) != 2 or task.objectives[-1] != "loss":
        raise ProblemError(
            "relaxed needs one cost and then 'loss' as objectives, got "
            + ", ".join(task.objectives)
        )
    if task.problem.checks:
        raise ProblemError("relaxed takes constraints in words only; use method='nsga2'")
    start = begin(replace(task, budget=task.budget or 1000), stream=8)
    archive = start.archive
    with suppress(Exhausted):
        if seeded:
            archive.evaluate(start.repairer.repair(predicted_plans(archive, targets), start.rng))
        _descend(start, _gradient(archive.reduced, task.evaluator), targets)
    return archive.front(method="relaxed")


SEARCHER = Searcher(search, needs_gradients=True)


def _descend(start: Start, gradient: Gradient, targets: int) -> None:
    """Walk the targets from the loosest to the tightest."""
    archive, repairer, rng = start.archive, start.repairer, start.rng
    reduced = repairer.reduced
    program = make_program(reduced)
    bounds = limit_bounds(program, reduced.limits)
    cost = program.column(reduced.values[:, :, 0], reduced.pair_values[..., 0])
    ends = [
        solve(program, sign * cost, bounds, gap=0.001, time_limit_s=20.0) for sign in (1.0, -1.0)
    ]
    if ends[0] is None or ends[1] is None:
        archive.evaluate(repairer.draw(1, rng))
        return
    low, high = ends[0].value, -ends[1].value
    archive.evaluate(np.stack([ends[0].row, ends[1].row]))
    flat = high - low <= 1e-12 * max(abs(low), abs(high))
    span = 1.0 if flat else high - low
    share = max(0.0, archive.left / targets)
    steps = max(2, int(_DESCENT * share / _GRADIENT_COST))
    logits = 0.01 * rng.standard_normal(reduced.allowed.shape)
    for number, target in enumerate(np.linspace(high, low, targets + 1)[:-1].tolist()):
        end = archive.left * (1 - 1 / (targets - number))  # what later targets may still spend
        state = _Adam(logits)
        for step in range(steps):
            done = step / (steps - 1)
            temperature = _TEMPERATURES[0] * (_TEMPERATURES[1] / _TEMPERATURES[0]) ** done
            probabilities = _meet(logits / temperature, reduced, target, span)
            archive.charge(_GRADIENT_COST)
            _, slope = gradient(probabilities)
            inner = (slope * probabilities).sum(axis=1, keepdims=True)
            logits = state.step(probabilities * (slope - inner))
        final = _meet(logits / _TEMPERATURES[1], reduced, target, span)
        limits = [*bounds, Bound(cost, target)]
        _try_roundings(start, program, final, limits, end)
        logits = logits * 0.5  # remembered, but soft again


def _try_roundings(
    start: Start, program: Program, probabilities: Floats, bounds: list[Bound], end: float
) -> None:
    """Measure the likeliest plan and noisy ones, then what these say is best, until ``end`` are left.

    What a choice costs is believed to grow as its probability falls; the plans measured at this target
    correct that belief, and draws from the posterior say what to measure next (Thompson sampling).
    """
    archive, repairer, rng = start.archive, start.repairer, start.rng
    reduced = repairer.reduced
    surprise = np.minimum(-np.log(np.maximum(probabilities, 1e-12)), _SURE)
    belief = np.exp(surprise / 2) - np.exp(surprise / 2).min(axis=1, keepdims=True)
    belief = np.where(reduced.allowed, belief, 0.0)
    blind = replace(
        reduced,
        values=np.stack([reduced.values[..., 0], belief], axis=2),
        pair_values=reduced.pair_values * np.array([1.0, 0.0]),
    )
    before = len(archive.evaluated[0])
    row = repairer.repair(_round(program, reduced, surprise, bounds)[None], rng)
    archive.evaluate(row)
    tried, repeated = 0, 0
    fit: Correction | None = None
    while archive.left > end and repeated < _REPEATED:
        rows, values, _ = archive.evaluated
        rows, losses = rows[before:], values[before:, 1]
        if len(rows) < _NOISY:
            scale = np.exp(rng.uniform(*np.log(_NOISE))) * (1 + repeated)
            costs = surprise - scale * rng.gumbel(size=surprise.shape)
        else:
            due = not repeated and not tried % max(_REFIT, len(rows) // 10)
            if fit is None or due:
                fit = correct_objective(blind, 1, rows, losses)
            costs = fit.table if due else fit.draw(rng)
            size = 0.1 * repeated * float(np.abs(costs).mean())
            costs = costs + size * rng.standard_normal(costs.shape)
        row = repairer.repair(_round(program, reduced, costs, bounds)[None], rng)
        if archive.known(row).all():
            repeated += 1
            continue
        tried, repeated = tried + 1, 0
        archive.evaluate(row)


def _meet(logits: Floats, reduced: Reduced, target: float, span: float) -> Floats:
    """Return softmax probabilities [V, S] of ``logits`` less the price at which ``target`` is expected.

    If no price suffices (boundary costs of undecided neighbours add up), those of a high price.
    """
    free = _softmax(logits, reduced)
    value, slope = expected_cost(reduced, free, 0)
    if value <= target:
        return free
    unit = slope * (reduced.n_variables / span)
    low, high = 0.0, 1.0

    def at_price(price: float) -> Floats:
        return _softmax(logits - price * unit, reduced)

    while expected_cost(reduced, at_price(high), 0)[0] > target and high < _HIGHEST:
        low, high = high, 4 * high
    for _ in range(_BISECTIONS):
        price = 0.5 * (low + high)
        over = expected_cost(reduced, at_price(price), 0)[0] > target
        low, high = (price, high) if over else (low, price)
    return at_price(high)


def _round(program: Program, reduced: Reduced, surprise: Floats, bounds: list[Bound]) -> Ints:
    """Return the least surprising assignment [V] within ``bounds``; the least of all if none is found."""
    solution = solve(program, program.column(surprise, None), bounds, gap=1e-3, time_limit_s=20.0)
    if solution is not None:
        return solution.row
    return np.where(reduced.allowed, surprise, np.inf).argmin(axis=1)


def _softmax(logits: Floats, reduced: Reduced) -> Floats:
    masked = np.where(reduced.allowed, logits, -np.inf)
    weights = np.exp(masked - masked.max(axis=1, keepdims=True))
    share: Floats = weights / weights.sum(axis=1, keepdims=True)
    return share


def expected_cost(reduced: Reduced, probabilities: Floats, column: int) -> tuple[float, Floats]:
    """Return the expected sum of an objective under independent choices, and its gradient [V, S]."""
    slope = reduced.values[:, :, column].copy()
    total = float((slope * probabilities).sum())
    if len(reduced.edges):
        (i, j), terms = reduced.edges.T, reduced.pair_values[..., column]
        ahead = np.einsum("eab,eb->ea", terms, probabilities[j])
        total += float((probabilities[i] * ahead).sum())
        np.add.at(slope, i, ahead)
        np.add.at(slope, j, np.einsum("eab,ea->eb", terms, probabilities[i]))
    return total, slope


def _gradient(reduced: Reduced, evaluator: Evaluator | None) -> Gradient:
    if evaluator is None:
        return lambda probabilities: expected_cost(reduced, probabilities, 1)

    def measured(probabilities: Floats) -> tuple[float, Floats]:
        loss, slope = evaluator.loss_and_gradient(probabilities[reduced.member])
        summed = np.zeros_like(probabilities)
        np.add.at(summed, reduced.member, np.asarray(slope, np.float64))
        return loss.mean, summed

    return measured


class _Adam:
    """Adam (Kingma & Ba 2015) on one array, of short memory: there are few steps."""

    def __init__(self, start: Floats) -> None:
        self._at = start.copy()
        self._first = np.zeros_like(start)
        self._second = np.zeros_like(start)
        self._count = 0

    def step(self, slope: Floats) -> Floats:
        self._count += 1
        self._first = 0.8 * self._first + 0.2 * slope
        self._second = 0.8 * self._second + 0.2 * slope**2
        first = self._first / (1 - 0.8**self._count)
        second = self._second / (1 - 0.8**self._count)
        self._at = self._at - _RATE * first / (np.sqrt(second) + _TINY)
        return self._at
