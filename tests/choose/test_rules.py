from collections.abc import Sequence

import numpy as np
import pytest

from mpsearch.choose.feasibility import check_limits
from mpsearch.choose.measured import cheapest_within, measure_least, paired, with_points
from mpsearch.choose.rules import Effort, Rules, Uniforms, choose_plans, refine_front
from mpsearch.errors import InfeasibleError
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Front, Point
from mpsearch.problem.tables import Costs, Table
from mpsearch.problem.ties import find_better
from mpsearch.search.measured.points import make_points
from mpsearch.stats.estimates import Estimate, Floats, Ints, estimate_mean
from tests.support.own_calls import searching

search = searching("exact")

G, SCHEMES = 7, ("fp16", "fp8", "nvfp4")
RNG = np.random.default_rng(3)
WEIGHTS = RNG.integers(100, 5000, G)
NOISE = RNG.lognormal(-3, 1.5, G)
TABLE = Table(
    metric="perturbation",
    unit="nats",
    groups=tuple(f"layer{g}" for g in range(G)),
    schemes=SCHEMES,
    values=np.outer(NOISE, [0.0, 0.1, 1.0]),
    stderr=np.zeros((G, 3)),
    allowed=np.ones((G, 3), np.bool_),
)
COSTS = Costs(
    device="npu_200tops",
    groups=TABLE.groups,
    schemes=SCHEMES,
    objectives={
        "latency_us": np.outer(WEIGHTS, [4.0, 2.0, 1.0]),
        "weight_bytes": np.outer(WEIGHTS, [2.0, 1.0, 0.5625]),
    },
    stderr={"latency_us": np.zeros((G, 3)), "weight_bytes": np.zeros((G, 3))},
    allowed=TABLE.allowed,
    edges=np.zeros((0, 2), np.int64),
    pair_terms={},
    parameters=WEIGHTS.astype(np.int64),
)
PROBLEM = build_problem(TABLE, COSTS)
FRONT = search(PROBLEM)


class Truth:
    """Measures: the table's sum, a quarter more, and counts."""

    def __init__(self) -> None:
        self.measured: list[tuple[int, ...]] = []

    def loss(self, row: Sequence[int]) -> float:
        return 1.25 * float(TABLE.values[np.arange(G), list(row)].sum())

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        self.measured += [tuple(row) for row in assignments.tolist()]
        return [Estimate(self.loss(row)) for row in assignments.tolist()]

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        return Estimate(self.loss(first) - self.loss(second))

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        raise NotImplementedError


def rivals() -> dict[str, Point]:
    rows = np.array([[1] * G, [2] * G])
    truth = Truth()
    points = make_points(PROBLEM, rows, method="uniform", losses=truth.evaluate(rows))
    return {"uniform fp8": points[0], "uniform nvfp4": points[1]}


def uniforms() -> Uniforms:
    base = make_points(PROBLEM, np.zeros((1, G), int), method="uniform", losses=[Estimate(0.0)])
    return Uniforms({"uniform fp16": base[0], **rivals()}, "uniform fp16")


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.1, 0.3])
def test_the_cheapest_point_within_a_measured_loss_is_found_in_log_many(limit: float) -> None:
    truth = Truth()
    point, front = cheapest_within(FRONT, "latency_us", limit, truth)
    best = min(
        (p for p in FRONT.points if truth.loss(p.assignment) <= limit),
        key=lambda p: p.predicted["latency_us"].mean,
    )
    assert point.assignment == best.assignment
    assert point.measured["loss"].mean == truth.loss(point.assignment)
    assert len(truth.measured) <= np.ceil(np.log2(len(FRONT.points) + 1))
    assert len(front.points) == len(FRONT.points)


def test_no_loss_within_the_limit_says_the_nearest() -> None:
    with pytest.raises(InfeasibleError, match="loss <= -1 as measured; feasible: loss <= 0"):
        cheapest_within(FRONT, "latency_us", -1.0, Truth())


def test_points_measured_before_are_not_measured_again() -> None:
    first = Truth()
    _, front = cheapest_within(FRONT, "latency_us", 0.1, first)
    second = Truth()
    cheapest_within(front, "latency_us", 0.1, second)
    assert second.measured == []


def test_least_loss_measures_the_best_predictions() -> None:
    truth = Truth()
    front = measure_least(FRONT, truth, candidates=3)
    assert len(truth.measured) == 3
    least = sorted(FRONT.points, key=lambda point: point.predicted["loss"].mean)[:3]
    assert {p.assignment for p in front.points if p.measured} == {p.assignment for p in least}


def test_choices_keep_their_rules_against_the_least_lossy_uniform_plan() -> None:
    measured = measure_least(FRONT, Truth(), candidates=len(FRONT.points))
    choices, _ = choose_plans(measured, Truth(), limits={}, uniforms=uniforms())
    by_name = {choice.name: choice.point for choice in choices}
    rival = rivals()["uniform fp8"]
    assert [choice.name for choice in choices] == ["fast", "small", "safe"]
    assert by_name["fast"].predicted["latency_us"].mean <= 0.84 * rival.predicted["latency_us"].mean
    assert by_name["fast"].predicted["weight_bytes"].mean <= rival.predicted["weight_bytes"].mean
    assert (
        by_name["small"].predicted["weight_bytes"].mean
        <= 0.62 * rival.predicted["weight_bytes"].mean
    )
    assert by_name["safe"].measured["loss"].mean <= rival.measured["loss"].mean


def test_refinement_adds_measured_points_within_its_budget() -> None:
    truth = Truth()
    rival = rivals()["uniform fp8"]
    front = refine_front(FRONT, TABLE, COSTS, rival, truth, Effort(16))
    assert 0 < len(truth.measured) <= 16 + 20
    measured = {p.assignment for p in front.points if p.measured}
    assert measured <= set(truth.measured)
    latencies = [p.predicted["latency_us"].mean for p in front.points]
    assert latencies == sorted(latencies)


def test_without_rivals_the_knee_is_chosen() -> None:
    choices, _ = choose_plans(FRONT, Truth(), limits={}, uniforms=Uniforms({}, ""))
    assert [choice.rule for choice in choices] == ["knee of the front"]
    assert "loss" in choices[0].point.measured


def test_feasible_limits_pass_and_the_nearest_of_infeasible_ones_is_exact() -> None:
    least = float(WEIGHTS.sum())
    check_limits(COSTS, {"latency_us": least, "effective_bits": 4.5})
    with pytest.raises(InfeasibleError, match=r"effective_bits <= 4\.5 with the other limits kept"):
        check_limits(COSTS, {"latency_us": least, "effective_bits": 4.4})
    with pytest.raises(InfeasibleError) as error:
        check_limits(COSTS, {"latency_us": least / 2})
    said = float(str(error.value).split("feasible: latency_us <= ")[1])
    assert least <= said <= least * 1.0002


def test_a_front_stays_in_order_when_points_are_added() -> None:
    extra = make_points(PROBLEM, np.array([[2, 1] * 3 + [0]]), method="refine")
    joined = with_points(FRONT, extra)
    values = [p.predicted["latency_us"].mean for p in joined.points]
    assert values == sorted(values)
    assert len(joined.points) in (len(FRONT.points), len(FRONT.points) + 1)
    assert isinstance(joined, Front)


class Noisy(Truth):
    """Losses of 64 samples; what a plan loses beyond fp8 on layer 0 is noise alone."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.noise = np.random.default_rng(5).normal(size=(64, G, 3)) * spread

    def samples(self, row: Sequence[int]) -> Floats:
        return super().loss(row) + self.noise[:, np.arange(G), list(row)].sum(1)

    def loss(self, row: Sequence[int]) -> float:
        return float(self.samples(row).mean())

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        return [estimate_mean(self.samples(row)) for row in assignments.tolist()]

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        return estimate_mean(self.samples(first) - self.samples(second))


def noisy_uniforms(truth: Truth) -> Uniforms:
    rows = np.array([[s] * G for s in range(3)])
    points = make_points(PROBLEM, rows, method="uniform", losses=truth.evaluate(rows))
    named = dict(zip(("uniform fp16", "uniform fp8", "uniform nvfp4"), points, strict=True))
    return Uniforms(named, "uniform fp16")


LIMITS = [
    {},
    {"latency_us": 3.0 * float(WEIGHTS.sum())},
    {"effective_bits": 16.0},
    {"loss": 2.0},
]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("spread", [0.0, 0.3, 30.0])
def test_no_uniform_plan_beats_what_is_chosen(limits: dict[str, float], spread: float) -> None:
    truth = Noisy(spread)
    uniforms = noisy_uniforms(truth)
    front = measure_least(FRONT, truth, candidates=len(FRONT.points))
    choices, _ = choose_plans(front, truth, limits=limits, uniforms=uniforms)
    for choice in choices:
        for label, rival in uniforms.points.items():
            if any(rival.value(name).mean > limit for name, limit in limits.items()):
                continue
            better = find_better(choice.point, [rival], paired(truth))
            assert better is None, f"{label} beats {choice.name}"


def test_where_all_losses_are_noise_the_cheapest_uniform_plan_is_the_answer() -> None:
    truth = Noisy(1e4)
    front = measure_least(FRONT, truth, candidates=len(FRONT.points))
    choices, joined = choose_plans(
        front, truth, limits={"effective_bits": 16.0}, uniforms=noisy_uniforms(truth)
    )
    assert choices[0].label == "mixed (= uniform nvfp4)"
    assert choices[0].rule.endswith(": nothing beats uniform nvfp4")
    assert choices[0].point.assignment in {point.assignment for point in joined.points}


def test_rules_that_choose_one_plan_share_a_label() -> None:
    truth = Truth()
    uniforms = noisy_uniforms(Noisy(0.0))
    front = measure_least(FRONT, truth, candidates=len(FRONT.points))
    loose = Rules(faster=0.0, smaller=0.0)
    choices, _ = choose_plans(front, Noisy(0.0), limits={}, uniforms=uniforms, rules=loose)
    by_plan: dict[tuple[int, ...], set[str]] = {}
    for choice in choices:
        by_plan.setdefault(choice.point.assignment, set()).add(choice.label)
        assert choice.name in choice.label
        assert "at least" not in choice.rule
    assert len(by_plan) < len(choices)
    assert all(len(labels) == 1 for labels in by_plan.values())
