import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import optuna
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


def test_a_study_holds_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    problem = example_problem()
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    measured = Interacting(problem.objectives["loss"])
    search(problem, evaluator=measured, budget=20, storage=storage)
    (summary,) = optuna.get_all_study_summaries(storage)
    assert summary.n_trials == len(measured.measured) == 20


def test_searchers_of_one_study_take_over_what_the_others_measured(
    tmp_path: Path,
) -> None:
    problem = example_problem()
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    both = [Interacting(problem.objectives["loss"]) for _ in range(2)]
    turn = threading.Barrier(2, timeout=60)

    def run(number: int) -> None:
        def told(done: int, total: int, text: str) -> None:
            if done < 10:  # of the study's, so that both are at it at the same time
                with suppress(threading.BrokenBarrierError):
                    turn.wait(timeout=0.5)

        search(
            problem, evaluator=both[number], budget=24, storage=storage, searcher=number,
            progress=told,
        )  # fmt: skip

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (summary,) = optuna.get_all_study_summaries(storage)
    counts = [len(one.measured) for one in both]
    assert all(counts)
    assert summary.n_trials == sum(counts)  # none is lost
    different = {plan for one in both for plan in one.measured}
    assert 24 <= len(different) <= 25  # one may be in flight when the budget is spent
    assert summary.n_trials < 2 * 24 - 12  # not each the whole budget


def test_a_storage_may_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = example_problem()
    monkeypatch.setenv("OUR_STUDY", f"sqlite:///{tmp_path / 'study.db'}")
    search(problem, budget=5, storage="$OUR_STUDY")
    assert (tmp_path / "study.db").is_file()
    with pytest.raises(ProblemError, match=r"storage is \$NOWHERE, but"):
        search(problem, budget=5, storage="$NOWHERE")


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
