from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import ProblemError, SettingError, UnknownNameError
from mpsearch.problem.problem import Problem
from mpsearch.search.find_front import find_front
from mpsearch.stats.estimates import Estimate, Ints
from mpsearch.testing.searchers import Interacting, example_problem
from tests.support.own_calls import searching

search_hull = searching("hull")


def test_exact_is_the_default_without_an_evaluator_and_refine_with_one() -> None:
    problem = example_problem()
    assert find_front(problem).method == "exact"
    measured = find_front(problem, evaluator=Interacting(problem.objectives["loss"]), budget=12)
    assert measured.method == "refine"


def test_an_unknown_method_is_refused_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="exact, milp"):
        find_front(example_problem(), method="guess")


def test_own_settings_reach_the_method(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    find_front(example_problem(), method="optuna", budget=4, settings={"storage": storage})
    assert (tmp_path / "study.db").exists()
    with pytest.raises(
        SettingError, match=r"search method optuna has no setting 'store'; .*storage"
    ):
        find_front(example_problem(), method="optuna", settings={"store": storage})


def test_a_method_that_needs_gradients_says_so_to_an_evaluator_without() -> None:
    class Bare:
        def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
            raise AssertionError

    with pytest.raises(ProblemError, match="relaxed needs gradients"):
        find_front(example_problem(), method="relaxed", evaluator=Bare())  # type: ignore[arg-type]


def test_hull_points_are_on_the_exact_front_and_its_eps_holds() -> None:
    rng = np.random.default_rng(0)
    problem = Problem({"latency_us": rng.random((25, 4)), "loss": rng.random((25, 4))})
    full, hull = find_front(problem).objectives, search_hull(problem)
    for row in hull.objectives:
        assert np.abs(full - row).max(axis=1).min() < 1e-9
    eps = float(hull.certificate.split(":")[0].removeprefix("eps="))
    span = np.ptp(full, axis=0)
    for row in full:
        assert (hull.objectives <= row + 1.05 * eps * span).all(axis=1).any()
