import numpy as np
import pytest

from mpsearch.problem.pareto import hypervolume
from mpsearch.problem.problem import Problem
from mpsearch.search.additive.contraction import reduce_problem
from mpsearch.search.measured.improvement import expected_improvement
from mpsearch.search.measured.table_regression import correct_objective
from mpsearch.stats.estimates import Estimate
from mpsearch.stats.saturation import Link, fit_link
from tests.support.own_calls import searching

search_exactly = searching("exact")
search = searching("refine")

NAMES = ("latency_us", "loss")


class Mispriced:
    """Measures twice the table at one scheme, half at another, and saturates."""

    def __init__(self, problem: Problem, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        factor = np.array([1.0, 2.0, 0.5, 1.2])[: problem.n_schemes]
        self.true = (
            problem.objectives["loss"] * factor * rng.lognormal(0, 0.3, problem.allowed.shape)
        )
        self.spent = 0.0

    def evaluate(self, assignments: np.ndarray, *, fraction: float = 1.0) -> list[Estimate]:
        self.spent += fraction * len(assignments)
        sums = self.true[np.arange(len(self.true)), assignments].sum(axis=1)
        return [Estimate(float(-np.expm1(-z)), 0.001) for z in sums]

    def loss_and_gradient(self, probabilities: np.ndarray) -> tuple[Estimate, np.ndarray]:
        raise NotImplementedError


def layers(seed: int, G: int = 30, S: int = 4) -> Problem:
    rng = np.random.default_rng(seed)
    cost = rng.lognormal(0, 1, (G, 1)) * np.array([1.0, 0.5, 0.4, 0.25])[:S]
    loss = rng.lognormal(-3.5, 1, (G, 1)) * np.array([0.01, 0.2, 0.4, 1.0])[:S]
    return Problem({"latency_us": cost, "loss": loss})


def test_measuring_and_refitting_beats_measuring_the_predicted_front() -> None:
    better = 0
    for seed in range(4):
        problem = layers(seed)
        corner = [problem.objectives["latency_us"].max(axis=1).sum(), 1.0]
        refined = search(problem, evaluator=Mispriced(problem, seed), budget=60, seed=seed)
        plain = search_exactly(problem, evaluator=Mispriced(problem, seed), budget=60)
        better += refined.hypervolume(corner) > plain.hypervolume(corner)
    assert better == 4


def test_racing_glances_count_towards_the_budget() -> None:
    problem = layers(0, G=12)
    evaluator = Mispriced(problem, 0)
    front = search(problem, evaluator=evaluator, budget=40, fraction=0.25)
    assert evaluator.spent <= 40 + 1e-9
    assert front.points
    assert front.history[-1].spent <= 40


def test_a_table_corrected_by_measurements_predicts_new_plans_better() -> None:
    problem = layers(1)
    evaluator = Mispriced(problem, 1)
    reduced = reduce_problem(problem, NAMES)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (120, problem.n_groups))
    losses = np.array([loss.mean for loss in evaluator.evaluate(rows)])
    fit = correct_objective(reduced, 1, rows[:80], losses[:80])
    mean, deviation = fit.predict(rows[80:])
    plain = problem.evaluate(rows[80:])["loss"]
    corrected_error = np.abs(mean - losses[80:]).mean()
    assert corrected_error < 0.5 * np.abs(plain - losses[80:]).mean()
    assert (np.abs(mean - losses[80:]) < 3 * deviation).mean() > 0.9


def test_measured_plans_are_predicted_as_measured() -> None:
    problem = layers(2, G=8)
    evaluator = Mispriced(problem, 2)
    rows = np.random.default_rng(0).integers(0, 4, (12, 8))
    losses = np.array([loss.mean for loss in evaluator.evaluate(rows)])
    mean, _ = correct_objective(reduce_problem(problem, NAMES), 1, rows, losses).predict(rows)
    assert np.abs(mean - losses).max() < 0.05 * losses.max()


def test_a_link_and_its_inverse_agree() -> None:
    link = Link(1.3, 0.9, 0.7)
    z = np.array([0.01, 0.1, 0.5])
    assert link.sums(link.losses(z)) == pytest.approx(z)
    step = 1e-6
    slope = (link.losses(z + step) - link.losses(z - step)) / (2 * step)
    assert link.slopes(z) == pytest.approx(slope, rel=1e-4)


def test_a_saturating_loss_is_recognised() -> None:
    z = np.geomspace(0.01, 5, 20)
    link = fit_link(z, 0.7 * -np.expm1(-z / 0.7))
    assert link.ceiling == pytest.approx(0.7, rel=0.1)
    assert link.losses(z) == pytest.approx(0.7 * -np.expm1(-z / 0.7), rel=0.1)


def test_negative_losses_are_taken_as_sums() -> None:
    assert fit_link(np.array([0.1, -0.1, 0.2, -0.3]), np.array([-0.1, -0.2, 0.1, 0.3])).linear


def test_expected_improvement_equals_its_average_over_draws() -> None:
    rng = np.random.default_rng(0)
    front = np.array([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0]])
    corner = np.array([6.0, 6.0])
    known, mean, deviation = (
        np.array([1.5, 3.0, 5.0]),
        np.array([4.0, 2.0, 1.5]),
        np.array([1.0, 0.7, 0.4]),
    )
    gain = expected_improvement(front, corner, known, mean, deviation)
    before = hypervolume(front, corner)
    for k in range(3):
        draws = mean[k] + deviation[k] * rng.standard_normal(4000)
        after = [hypervolume(np.vstack([front, [known[k], y]]), corner) for y in draws]
        assert gain[k] == pytest.approx(np.mean(after) - before, abs=4 * np.std(after) / 4000**0.5)


class Recorded(Mispriced):
    """Notes the order of what is measured; what is ``known`` is not measured again."""

    def __init__(self, problem: Problem, seed: int, known: dict[bytes, Estimate]) -> None:
        super().__init__(problem, seed)
        self.known, self.fresh = known, 0

    def evaluate(self, assignments: np.ndarray, *, fraction: float = 1.0) -> list[Estimate]:
        for row in assignments:
            if row.tobytes() not in self.known:
                self.fresh += 1
                self.known[row.tobytes()] = super().evaluate(row[None])[0]
        return [self.known[row.tobytes()] for row in assignments]


def test_an_interrupted_search_goes_on_where_it_stopped() -> None:
    problem = layers(3, G=10)
    known: dict[bytes, Estimate] = {}
    search(problem, evaluator=Recorded(problem, 3, known), budget=40)
    resumed = Recorded(problem, 3, known)
    front = search(problem, evaluator=resumed, budget=60)
    whole = search(problem, evaluator=Recorded(problem, 3, {}), budget=60)
    assert resumed.fresh == 20
    assert front.assignments.tolist() == whole.assignments.tolist()
    assert front.history == whole.history


def test_limits_on_other_quantities_hold_and_are_used_up() -> None:
    problem = layers(4, G=16)
    size = np.random.default_rng(0).lognormal(0, 1, (16, 1)) * np.array([16.0, 8.0, 8.0, 4.0])
    limit = 0.5 * size[:, 0].sum()
    limited = Problem(
        {**problem.objectives, "weight_bytes": size}, constraints=(f"weight_bytes <= {limit}",)
    )
    front = search(limited, evaluator=Mispriced(limited, 4), budget=60)
    taken = limited.evaluate(front.assignments)["weight_bytes"]
    assert (taken <= limit * (1 + 1e-9)).all()
    assert taken.max() > 0.95 * limit
