from dataclasses import replace

import numpy as np
import pytest

from mpsearch.choose.by_quality import Keep, choose_by_quality, describe
from mpsearch.choose.rules import Uniforms
from mpsearch.errors import DataError, InfeasibleError
from mpsearch.problem.front import Front, Point
from mpsearch.stats.estimates import Estimate, Floats, Ints

N = 12  # points, the first one the fastest and the most lossy
FRONT = Front(
    tuple(
        Point((k,), {"latency_us": Estimate(10.0 + k), "loss": Estimate(1.0 / (1 + k))})
        for k in range(N)
    ),
    ("latency_us", "loss"),
    tuple(f"s{k}" for k in range(N + 1)),
    ("g",),
)


class Measurer:
    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        return [Estimate(float(1 / (1 + row[0])), 0.01) for row in assignments]

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        raise NotImplementedError


SAFEST = ("uniform fp16", Point((N,), {"latency_us": Estimate(50.0), "loss": Estimate(0.0)}))
UNIFORMS = Uniforms({SAFEST[0]: SAFEST[1]}, SAFEST[0])


class Scores:
    """Accuracy of 0.9, and of plan k a drop of ``drops[k]``; scored from the slowest on."""

    def __init__(self, drops: Floats, n: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._drops = drops
        self._reference = (self._rng.random(n) < 0.9).astype(float)
        self.asked: list[int] = []

    def __call__(self, assignment: tuple[int, ...] | None) -> dict[str, Floats]:
        if assignment is None:
            return {"accuracy": self._reference, "nll": 1 - self._reference}
        self.asked.append(assignment[0])
        lose = self._rng.random(len(self._reference)) < self._drops[assignment[0]] / 0.9
        scores = np.where(lose, 0.0, self._reference)
        noise = self._rng.normal(self._drops[assignment[0]], 0.3, len(scores))
        return {"accuracy": scores, "nll": 1 - self._reference + noise}


DROPS = np.append(np.linspace(0.06, 0.0, N), 0.0)  # the last one is the safest


def test_the_fastest_plan_before_the_first_that_is_not_kept_is_chosen() -> None:
    scores = Scores(DROPS, 20_000, 0)
    keep = Keep("accuracy", 0.03, 0.95)
    choice, front, drops = choose_by_quality(FRONT, Measurer(), scores, keep, UNIFORMS)
    assert scores.asked == list(range(N, scores.asked[-1] - 1, -1))
    assert [drop.test.verdict for drop in drops[:-1]] == ["kept"] * (len(drops) - 1)
    assert drops[-1].test.verdict != "kept"
    assert choice.point.assignment == drops[-2].point.assignment
    assert DROPS[choice.point.assignment[0]] <= 0.03 < DROPS[choice.point.assignment[0] - 2]
    assert (
        choice.point.measured["loss"]
        == Measurer().evaluate(np.array([[choice.point.assignment[0]]]))[0]
    )
    assert "loss" in front.points[choice.point.assignment[0]].measured
    assert "accuracy down by at most 0.03 at 0.95 confidence" in choice.rule


def test_points_that_are_dominated_as_measured_are_not_tested() -> None:
    slow = Point(
        (0,), {"latency_us": Estimate(99.0), "loss": Estimate(0.0)}, {"loss": Estimate(9.0)}
    )
    scores = Scores(DROPS, 2000, 0)
    front = replace(FRONT, points=(*FRONT.points, slow))
    choose_by_quality(front, Measurer(), scores, Keep("accuracy", 0.03, 0.95), UNIFORMS)
    assert scores.asked[:2] == [N, N - 1]


def test_a_lower_nll_is_better() -> None:
    scores = Scores(DROPS, 20_000, 0)
    choice, _, _ = choose_by_quality(FRONT, Measurer(), scores, Keep("nll", 0.03, 0.95), UNIFORMS)
    assert DROPS[choice.point.assignment[0]] <= 0.03


def test_a_plan_that_drops_more_is_chosen_no_more_often_than_stated() -> None:
    wrong = 0
    for seed in range(300):
        scores = Scores(DROPS, 1500, seed)
        try:
            choice, _, _ = choose_by_quality(
                FRONT, Measurer(), scores, Keep("nll", 0.03, 0.95), UNIFORMS
            )
        except InfeasibleError:
            continue
        wrong += DROPS[choice.point.assignment[0]] > 0.03
    assert wrong / 300 <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_too_few_samples_say_how_many_would_decide() -> None:
    with pytest.raises(InfeasibleError) as caught:
        choose_by_quality(
            FRONT, Measurer(), Scores(DROPS, 50, 0), Keep("accuracy", 0.01, 0.95), UNIFORMS
        )
    message = str(caught.value)
    assert "undecided (drop 0 on 50 held-out samples, at most 0.0" in message
    assert 290 <= int(message.split("about ")[1].split(" samples")[0]) <= 320


def test_a_plan_beyond_the_limit_says_by_how_much_at_least() -> None:
    keep = Keep("accuracy", 0.01, 0.95)
    with pytest.raises(InfeasibleError, match=r"broken \(drop 0\.\d+ on 2000 .* at least 0\.0"):
        choose_by_quality(FRONT, Measurer(), Scores(DROPS + 0.1, 2000, 0), keep, UNIFORMS)


def test_an_unknown_quality_is_refused_with_the_choices() -> None:
    keep = Keep("f1", 0.01, 0.95)
    with pytest.raises(DataError, match="accuracy, nll"):
        choose_by_quality(FRONT, Measurer(), Scores(DROPS, 50, 0), keep, UNIFORMS)


def test_an_undecided_next_plan_says_how_many_samples_would_decide() -> None:
    _, _, drops = choose_by_quality(
        FRONT, Measurer(), Scores(DROPS, 3000, 1), Keep("accuracy", 0.03, 0.95), UNIFORMS
    )
    undecided = [drop for drop in drops if drop.test.verdict == "undecided"]
    assert undecided == list(drops[-1:])
    assert "samples would decide" in describe(drops[-1])


def test_where_nothing_faster_is_kept_the_safest_plan_is_chosen() -> None:
    drops = np.append(np.full(N, 0.2), 0.0)
    choice, _, _ = choose_by_quality(
        FRONT, Measurer(), Scores(drops, 2000, 1), Keep("accuracy", 0.03, 0.95), UNIFORMS
    )
    assert choice.point.assignment == SAFEST[1].assignment
    assert choice.label == "mixed (= uniform fp16)"


def test_a_uniform_plan_that_keeps_the_quality_and_is_fastest_is_chosen() -> None:
    fast = Point((N - 1,), {"latency_us": Estimate(5.0)}, {"loss": Estimate(0.05)})
    uniforms = Uniforms({**UNIFORMS.points, "uniform fp8": fast}, UNIFORMS.base)
    keep = Keep("accuracy", 0.03, 0.95)
    choice, front, _ = choose_by_quality(
        FRONT, Measurer(), Scores(DROPS, 20_000, 0), keep, uniforms
    )
    assert choice.label == "mixed (= uniform fp8)"
    assert choice.point.assignment in {point.assignment for point in front.points}
