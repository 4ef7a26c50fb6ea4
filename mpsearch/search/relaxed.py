"""Differentiable search: softmax weights over schemes, annealed, then rounded to a plan."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from mpsearch.errors import ProblemError
from mpsearch.pareto import Front
from mpsearch.problem import Evaluator, Problem
from mpsearch.search.archive import Archive, Exhausted
from mpsearch.search.linear import Bound, Program, limit_bounds, make_program, solve
from mpsearch.search.reduce import Reduced
from mpsearch.search.repair import Repairer, make_repairer
from mpsearch.search.seeds import predicted_plans
from mpsearch.tables import Floats, Ints, Progress

_GRADIENT_COST = 3.0  # of one plan's measurement: forward through all schemes, and backward
_RATE = 0.3
_TEMPERATURES = (1.0, 0.1)
_WEIGHT = 30.0  # of squared excess over the target, in units of its range

Gradient = Callable[[Floats], tuple[float, Floats]]
"""Probabilities [V, S] -> loss, and its gradient [V, S]."""


def search(
    problem: Problem,
    *,
    objectives: tuple[str, ...] = ("latency_us", "loss"),
    evaluator: Evaluator | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
    seeded: bool = False,
    targets: int = 8,
) -> Front:
    """Return the front of plans rounded from continuous ones, one for each target of the first objective.

    Each variable holds softmax weights over its schemes. For targets spread evenly between the least and
    the greatest useful value of the first objective, Adam lowers loss + excess over the target while the
    temperature falls; the previous target's weights are the start. The plan is the likeliest one that
    keeps the target and all constraints (an integer program). The sensitivity table is not read.

    Args:
        problem: The tables of costs; constraints that are sums.
        objectives: Two to minimise; the last one must be ``loss``.
        evaluator: Gives losses and gradients; None: the table's expected loss.
        budget: Evaluations, one gradient counting as 3; 600 if None.
        seed: Of the starting weights.
        progress: Called after evaluations.
        time_limit_s: Stop then.
        seeded: Measure as many plans of the predicted front as there are targets too.
        targets: How many.

    Raises:
        ProblemError: The objectives are not one cost and ``loss``, or a constraint is code.
        InfeasibleError: No assignment meets the constraints.
    """
    if len(objectives) != 2 or objectives[-1] != "loss":
        raise ProblemError(
            f"relaxed needs one cost and then 'loss' as objectives, got {', '.join(objectives)}"
        )
    if problem.checks:
        raise ProblemError("relaxed takes constraints in words only; use method='nsga2'")
    archive = Archive(
        problem,
        objectives,
        evaluator=evaluator,
        budget=budget or 600,
        progress=progress,
        time_limit_s=time_limit_s,
    )
    repairer = make_repairer(problem, archive.reduced, measures=archive.measures, seed=seed)
    rng = np.random.default_rng([seed, 8])
    with suppress(Exhausted):
        if seeded:
            archive.evaluate(repairer.repair(predicted_plans(archive, targets), rng))
        _descend(archive, repairer, _gradient(archive, evaluator), targets, rng)
    return archive.front(method="relaxed")


def _descend(
    archive: Archive, repairer: Repairer, gradient: Gradient, targets: int, rng: np.random.Generator
) -> None:
    """Walk the targets from the loosest to the tightest."""
    reduced = archive.reduced
    program = make_program(reduced)
    bounds = [
        bound
        for group, limit in zip(limit_bounds(program, reduced), reduced.limits, strict=True)
        if not (archive.measures and limit.source.quantity == "loss")
        for bound in group
    ]
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
    steps = max(4, int((archive.left / targets - 1) / _GRADIENT_COST))
    logits = 0.01 * rng.standard_normal(reduced.allowed.shape)
    for target in np.linspace(high, low, targets + 1)[:-1]:
        state = _Adam(logits)
        for step in range(steps):
            share = step / max(1, steps - 1)
            temperature = _TEMPERATURES[0] * (_TEMPERATURES[1] / _TEMPERATURES[0]) ** share
            probabilities = _softmax(logits / temperature, reduced)
            archive.charge(_GRADIENT_COST)
            loss, slope = gradient(probabilities)
            value, cost_slope = expected_cost(reduced, probabilities, 0)
            over = 0.0 if flat else max(0.0, (value - target) / span)
            size = max(abs(loss), 1e-3 * float(np.ptp(slope, axis=1).sum())) or 1.0
            total = slope / size + 2 * _WEIGHT * over * cost_slope / span
            inner = (total * probabilities).sum(axis=1, keepdims=True)
            logits = state.step(probabilities * (total - inner) / temperature)
            if archive.left < 1:
                break
        final = _softmax(logits / _TEMPERATURES[1], reduced)
        row = _round(program, reduced, final, [*bounds, Bound(cost, float(target))])
        archive.evaluate(repairer.repair(row[None], rng))
        logits = logits * 0.5  # remembered, but soft again


def _round(program: Program, reduced: Reduced, probabilities: Floats, bounds: list[Bound]) -> Ints:
    """Return the likeliest assignment [V] within ``bounds``; the likeliest of all if none is found."""
    surprise = -np.log(np.maximum(probabilities, 1e-12))
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
    for (i, j), term in zip(reduced.edges.tolist(), reduced.pair_values[..., column], strict=True):
        total += float(probabilities[i] @ term @ probabilities[j])
        slope[i] += term @ probabilities[j]
        slope[j] += probabilities[i] @ term
    return total, slope


def _gradient(archive: Archive, evaluator: Evaluator | None) -> Gradient:
    reduced = archive.reduced
    if evaluator is None:
        return lambda probabilities: expected_cost(reduced, probabilities, 1)

    def measured(probabilities: Floats) -> tuple[float, Floats]:
        loss, slope = evaluator.loss_and_gradient(probabilities[reduced.member])
        summed = np.zeros_like(probabilities)
        np.add.at(summed, reduced.member, np.asarray(slope, np.float64))
        return loss.mean, summed

    return measured


class _Adam:
    """Adam (Kingma & Ba 2015) on one array."""

    def __init__(self, start: Floats) -> None:
        self._at = start.copy()
        self._first = np.zeros_like(start)
        self._second = np.zeros_like(start)
        self._count = 0

    def step(self, slope: Floats) -> Floats:
        self._count += 1
        self._first = 0.9 * self._first + 0.1 * slope
        self._second = 0.99 * self._second + 0.01 * slope**2
        first = self._first / (1 - 0.9**self._count)
        second = self._second / (1 - 0.99**self._count)
        self._at = self._at - _RATE * first / (np.sqrt(second) + 1e-8)
        return self._at
