"""The end of a search whose plans are recovered: which plans are worth it, and what they lose then.

The table is scored without recovery, which ranks recovered plans as well; how much recovery leaves of each scheme's loss is
learned from the plans that were recovered so far, and says which to recover next.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mpsearch.choose.measured import PairedEvaluator, paired
from mpsearch.choose.rules import Rules, Uniforms
from mpsearch.deadline import Deadline, has_passed
from mpsearch.errors import ProblemError
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import RECOVERED, Front, Point
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs, Progress, Table
from mpsearch.search.find_front import find_front
from mpsearch.search.measured.points import make_points
from mpsearch.stats.recovery_factors import DENSE, SPARSE, fit_factors, scheme_parts


class Recovering(PairedEvaluator, Protocol):
    """Measures plans with the weights that recovery gave them, where it was asked to recover them."""

    def recover(self, assignment: Sequence[int]) -> None:
        """Recover the plan of ``assignment`` [G]; a second call does nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What finalists are looked for.

    Attributes:
        limits: Quantity to its greatest value; empty: the rules decide.
        constraints: The same, all but that on the loss, as a problem takes them.
        rules: How much faster and smaller.
        sparse: Names of the sparse schemes, of which recovery leaves less.
        count: Plans that may be recovered.
        deadline: From then on none is begun.
    """

    limits: Mapping[str, float]
    constraints: Sequence[str]
    rules: Rules
    sparse: frozenset[str]
    count: int
    deadline: Deadline | None = None


def recover_finalists(
    front: Front,
    tables: tuple[Table, Costs],
    uniforms: Uniforms,
    first: Sequence[Point],
    evaluator: Recovering,
    wanted: Wanted,
    progress: Progress,
) -> Front:
    """Return the front of all that was measured, with recovered plans among it.

    The rival and ``first`` are recovered; then, one after the other, the plans that are predicted to be the best for
    each rule once they are.

    Args:
        front: What the search found, measured without recovery.
        tables: Sensitivities and costs.
        uniforms: The uniform plans and those of rules, measured.
        first: What was chosen without recovery.
        evaluator: Recovers, and measures.
        wanted: What is looked for.
        progress: Told of each plan.
    """
    known: dict[tuple[int, ...], None] = {}

    def recover(assignment: tuple[int, ...], text: str) -> None:
        if assignment in known or len(known) >= wanted.count or has_passed(wanted.deadline):
            return
        progress(len(known), wanted.count, text)
        evaluator.recover(assignment)
        known[assignment] = None

    rival: Point | None = None
    if uniforms.rivals:
        label, rival = uniforms.best(paired(evaluator))
        recover(rival.assignment, label)
    for point in first:
        recover(point.assignment, point.method)
    problem = _predict(tables, list(known), evaluator, wanted)
    while len(known) < wanted.count and not has_passed(wanted.deadline):
        before = len(known)
        for point in _next(problem, rival, known, wanted):
            recover(point.assignment, "the best that is predicted")
        if len(known) == before:
            break
        problem = _predict(tables, list(known), evaluator, wanted)
    progress(wanted.count, wanted.count, f"{len(known)} plans recovered")
    return _join(front, problem, list(known), evaluator)


def _predict(
    tables: tuple[Table, Costs],
    known: Sequence[tuple[int, ...]],
    evaluator: Recovering,
    wanted: Wanted,
) -> Problem:
    """The tables' problem, its losses as recovery is known to leave them."""
    table, costs = tables
    priors = [SPARSE if name in wanted.sparse else DENSE for name in table.schemes]
    losses = [found.mean for found in evaluator.evaluate(np.array(known, np.int64))]
    factors = fit_factors(scheme_parts(table.values, known), losses, priors)
    scaled = replace(table, values=table.values * factors, stderr=table.stderr * factors)
    if table.pair_terms is not None:
        both = np.sqrt(factors[:, None] * factors[None, :])
        scaled = replace(scaled, pair_terms=table.pair_terms * both)
    confidence = wanted.rules.confidence
    return build_problem(scaled, costs, constraints=wanted.constraints, confidence=confidence)


def _next(
    problem: Problem,
    rival: Point | None,
    known: Mapping[tuple[int, ...], None],
    wanted: Wanted,
) -> Iterator[Point]:
    """The best predicted plan for each rule that was not recovered yet, and one where the front has the widest gap."""
    rules = wanted.rules
    for goal in ("latency_us", "weight_bytes"):
        try:
            points = find_front(problem, method="exact", objectives=(goal, "loss")).points
        except ProblemError:  # edges too entangled for a proof
            points = find_front(problem, method="milp", budget=20, objectives=(goal, "loss")).points
        fresh = [point for point in points if point.assignment not in known]
        if "loss" in wanted.limits:
            inside = [p for p in fresh if p.predicted["loss"].mean <= wanted.limits["loss"]]
            yield from sorted(inside, key=lambda p: p.predicted["latency_us"].mean)[:1]
        elif wanted.limits or rival is None:
            yield from sorted(fresh, key=lambda p: p.predicted["loss"].mean)[:1]
        else:
            shares = rules.fast if goal == "latency_us" else rules.small
            inside = [
                point
                for point in fresh
                if all(
                    point.predicted[name].mean <= share * rival.value(name).mean
                    for name, share in shares.items()
                )
            ]
            yield from sorted(inside, key=lambda p: p.predicted["loss"].mean)[:1]
        if goal == "latency_us" and fresh:
            at = problem.evaluate(np.array(list(known), np.int64))[goal]
            yield max(fresh, key=lambda p: float(np.abs(at - p.predicted[goal].mean).min()))


def _join(
    front: Front, problem: Problem, known: Sequence[tuple[int, ...]], evaluator: Recovering
) -> Front:
    """The points of ``front``, measured again on the samples that did not recover, and the recovered ones."""
    plain = [p for p in front.points if "loss" in p.measured and p.assignment not in known]
    recovered = make_points(problem, np.array(known, np.int64), method=RECOVERED)
    everything = [*plain, *recovered]
    losses = evaluator.evaluate(np.array([p.assignment for p in everything], np.int64))
    points = [
        replace(point, measured={**point.measured, "loss": loss})
        for point, loss in zip(everything, losses, strict=True)
    ]
    unmeasured = [p for p in front.points if "loss" not in p.measured and p.assignment not in known]
    goal = front.names[0]
    ordered = sorted([*points, *unmeasured], key=lambda point: point.value(goal).mean)
    certificate = f"{front.certificate}; {len(known)} plans recovered".removeprefix("; ")
    return replace(front, points=tuple(ordered), certificate=certificate)
