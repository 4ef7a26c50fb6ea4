"""Finalists are recovered where it is predicted to pay, and what they lose then is what stands on the front."""

from collections.abc import Sequence

import numpy as np
import pytest

from mpsearch.choose.recovered import Wanted, recover_finalists
from mpsearch.choose.rules import Rules, Uniforms
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import RECOVERED, Front, Point
from mpsearch.problem.tables import Costs, Table
from mpsearch.search.find_front import find_front
from mpsearch.search.measured.points import make_points
from mpsearch.stats.estimates import Estimate, Floats, Ints

G, SCHEMES = 8, ("fp16", "fp8", "fp8_2of4")
FACTORS = np.array([1.0, 0.7, 0.1])
LATENCY = np.array([4.0, 2.0, 1.0])


def tables(seed: int = 0) -> tuple[Table, Costs]:
    rng = np.random.default_rng(seed)
    groups = tuple(f"g{g}" for g in range(G))
    loss = np.stack([np.zeros(G), rng.lognormal(-3, 0.5, G), rng.lognormal(-1, 0.5, G)], 1)
    allowed, zeros = np.ones((G, 3), np.bool_), np.zeros((G, 3))
    table = Table("made", "nats", groups, SCHEMES, loss, zeros, allowed)
    costs = Costs(
        "made",
        groups,
        SCHEMES,
        {"latency_us": np.tile(LATENCY, (G, 1)), "weight_bytes": np.tile(LATENCY * 10, (G, 1))},
        {"latency_us": zeros, "weight_bytes": zeros},
        allowed,
        np.zeros((0, 2), np.int64),
        {},
        np.full(G, 10),
    )
    return table, costs


class Made:
    """Losses add up; recovery leaves of each scheme's what ``FACTORS`` says."""

    def __init__(self, table: Table) -> None:
        self.values, self.recovered = table.values, list[tuple[int, ...]]()

    def recover(self, assignment: Sequence[int]) -> None:
        self.recovered.append(tuple(assignment))

    def losses(self, assignment: Sequence[int]) -> Floats:
        key = tuple(int(s) for s in assignment)
        factors = FACTORS if key in self.recovered else np.ones(3)
        chosen = np.array(key)
        total = (self.values[np.arange(G), chosen] * factors[chosen]).sum()
        return np.array([0.9, 1.1]) * float(total)

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        return [Estimate(float(self.losses(row).mean()), 1e-6) for row in assignments]

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        return Estimate(float((self.losses(first) - self.losses(second)).mean()), 1e-6)

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        raise AssertionError("no gradient is needed")


def run(count: int, limits: dict[str, float] | None = None) -> tuple[Front, Made, Uniforms]:
    table, costs = tables()
    made = Made(table)
    problem = build_problem(table, costs)
    points = make_points(problem, np.array([[s] * G for s in range(3)]), method="uniform")
    measured = [
        Point(p.assignment, p.predicted, {"loss": made.evaluate(np.array([p.assignment]))[0]})
        for p in points
    ]
    labels = [f"uniform {name}" for name in SCHEMES]
    uniforms = Uniforms(dict(zip(labels, measured, strict=True)), "uniform fp16")
    front = find_front(problem, method="exact")
    words = tuple(f"{k} <= {v}" for k, v in (limits or {}).items() if k != "loss")
    wanted = Wanted(limits or {}, words, Rules(0.16, 0.38), frozenset({"fp8_2of4"}), count)
    found = recover_finalists(
        front, (table, costs), uniforms, [], made, wanted, lambda done, total, text: None
    )
    return found, made, uniforms


def test_no_more_plans_are_recovered_than_asked_for_and_none_twice() -> None:
    for count in (1, 4, 9):
        _, made, _ = run(count)
        assert len(made.recovered) == len(set(made.recovered)) <= count


def test_what_stands_on_the_front_is_what_was_measured() -> None:
    front, made, _ = run(6)
    recovered = [p for p in front.points if p.method == RECOVERED]
    assert {p.assignment for p in recovered} == set(made.recovered)
    for point in recovered:
        assert point.measured["loss"].mean == made.evaluate(np.array([point.assignment]))[0].mean
    assert "6 plans recovered" in front.certificate


def test_sparse_plans_become_worth_it() -> None:
    """Plain, uniform fp8 is less lossy than all that is sparse; recovered, faster plans lose less than it does."""
    front, _, uniforms = run(8)
    rival = uniforms.points["uniform fp8"]
    better = [
        p
        for p in front.points
        if p.method == RECOVERED
        and 2 in p.assignment
        and p.value("latency_us").mean <= 0.84 * rival.value("latency_us").mean
        and p.measured["loss"].mean < rival.measured["loss"].mean
    ]
    assert better


@pytest.mark.parametrize("limits", [{"latency_us": 12.0}, {"loss": 0.2}])
def test_limits_decide_what_is_recovered(limits: dict[str, float]) -> None:
    front, made, uniforms = run(5, limits)
    rival = uniforms.points["uniform fp8"].assignment
    assert made.recovered[0] == rival
    for assignment in made.recovered[1:]:
        if "latency_us" in limits:
            assert LATENCY[list(assignment)].sum() <= 12
    if "loss" in limits:
        fastest = min(
            (p for p in front.points if p.method == RECOVERED and p.measured["loss"].mean <= 0.2),
            key=lambda p: p.predicted["latency_us"].mean,
        )
        assert fastest.predicted["latency_us"].mean < LATENCY[1] * G
