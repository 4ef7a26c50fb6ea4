from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import ProblemError
from mpsearch.testing.searchers import Interacting, example_problem
from tests.support.own_calls import searching

search = searching("optuna")


def test_a_study_in_a_storage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    problem = example_problem()
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    first = Interacting(problem.objectives["loss"])
    search(problem, evaluator=first, budget=6, storage=storage)
    second = Interacting(problem.objectives["loss"])
    front = search(problem, evaluator=second, budget=10, storage=storage)
    assert len(first.measured) == 6
    assert len(second.measured) == 4
    assert not set(first.measured) & set(second.measured)
    assert front.points


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "gp"])
def test_every_sampler_gives_a_front(sampler: str) -> None:
    problem = example_problem()
    front = search(
        problem, evaluator=Interacting(problem.objectives["loss"]), budget=14, sampler=sampler
    )
    assert problem.feasible(front.assignments).all()


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ProblemError, match="tpe, nsgaii, gp"):
        search(example_problem(), sampler="cmaes")  # type: ignore[arg-type]


def test_a_study_of_another_problem_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    search(example_problem(), budget=5, storage=storage)
    other = example_problem(constraints=(), groups=[f"layer{i}" for i in range(8)])
    with pytest.raises(ProblemError, match="other groups"):
        search(other, budget=5, storage=storage)


def test_predictions_are_not_taken_for_measurements(tmp_path: Path) -> None:
    problem = example_problem()
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    search(problem, budget=5, storage=storage)
    with pytest.raises(ProblemError, match="predictions"):
        search(problem, evaluator=Interacting(np.ones((8, 3))), budget=5, storage=storage)
