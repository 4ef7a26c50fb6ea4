from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import JobError
from mpsearch.runs.evaluations import EvaluationStore, StoredSimulator
from mpsearch.stats.estimates import Estimate, Floats, Ints, estimate_mean


class Counting:
    """Stands in for a simulator: losses that follow from the assignment, and a count."""

    def __init__(self) -> None:
        self.calls = 0
        self.unit = "nats"

    def losses(self, assignment: Ints, batches: Sequence[int] | None = None) -> Floats:
        self.calls += 1
        batch = np.arange(3.0) + assignment.sum()
        return batch if batches is None else np.concatenate([batch + b for b in batches])

    def estimate(self, losses: Floats) -> Estimate:
        return estimate_mean(losses)

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        self.calls += len(assignments)
        return [Estimate(fraction, 0.0) for _ in assignments]


@pytest.fixture
def store(tmp_path: Path) -> EvaluationStore:
    return EvaluationStore(tmp_path / "evaluations.sqlite")


def test_what_was_measured_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.sqlite"
    losses = np.array([0.1, -1e-300, 7e200])
    with EvaluationStore(path) as store:
        store.put("a", (0, 12, 3), losses)
    with EvaluationStore(path) as store:
        np.testing.assert_array_equal(store.get("a", (0, 12, 3)), losses)
        assert [key for key, _ in store.items("a")] == [(0, 12, 3)]
    assert [file.name for file in tmp_path.iterdir()] == ["evaluations.sqlite"]


def test_what_was_put_is_there_although_nobody_closed(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.sqlite"
    left_open = EvaluationStore(path)
    left_open.put("a", (1,), np.ones(2))
    assert EvaluationStore(path).count("a") == 1


def test_contexts_never_meet(store: EvaluationStore) -> None:
    store.put("a", (1, 2), np.ones(2))
    assert store.get("b", (1, 2)) is None
    assert (store.count("a"), store.count("b")) == (1, 0)


def test_the_first_measurement_stays(store: EvaluationStore) -> None:
    store.put("a", (1,), np.ones(2))
    store.put("a", (1,), np.zeros(2))
    np.testing.assert_array_equal(store.get("a", (1,)), np.ones(2))


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.sqlite"
    path.write_bytes(b"no database at all, but long enough to be read as a header" * 20)
    with pytest.raises(JobError, match=r"evaluations\.sqlite: must be a store"):
        EvaluationStore(path)


def test_losses_are_measured_once_and_estimated_from_the_store(store: EvaluationStore) -> None:
    simulator = Counting()
    stored = StoredSimulator(simulator, store, "a")  # type: ignore[arg-type]
    first = stored.evaluate(np.array([[1, 2], [0, 0], [1, 2]]))
    assert simulator.calls == 2
    assert first[0] == first[2] == stored.loss(np.array([1, 2]))
    assert first[0] == estimate_mean(np.array([3.0, 4.0, 5.0]))
    assert StoredSimulator(simulator, store, "a").loss(np.array([0, 0])).mean == 1.0  # type: ignore[arg-type]
    assert simulator.calls == 2
    assert stored.unit == "nats"


def test_parts_of_the_data_are_not_kept(store: EvaluationStore) -> None:
    stored = StoredSimulator(Counting(), store, "a")  # type: ignore[arg-type]
    assert stored.evaluate(np.array([[1, 2]]), fraction=0.5)[0].mean == 0.5
    assert store.count("a") == 0


def test_a_run_on_more_data_measures_only_the_batches_that_are_new(store: EvaluationStore) -> None:
    few, more = Counting(), Counting()
    plan = np.array([1, 2])
    short = StoredSimulator(few, store, "two batches", ["first", "second"]).losses(plan)  # type: ignore[arg-type]
    whole = StoredSimulator(more, store, "three batches", ["first", "second", "third"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(whole.losses(plan)[:6], short)
    assert (few.calls, more.calls) == (2, 1)
    np.testing.assert_array_equal(whole.losses(plan, [1]), short[3:])
    assert more.calls == 1
