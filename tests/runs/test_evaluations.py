from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import JobError
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.stored_losses import StoredLosses
from tests.support.small_models import mlp_simulator, random_weights


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


def test_a_run_on_more_data_knows_the_batches_that_it_has_in_common(store: EvaluationStore) -> None:
    short = StoredLosses(store, "two batches", ("first", "second"))
    short.put((1, 2), 0, np.zeros(3))
    short.put((1, 2), 1, np.ones(3))
    short.put((1, 2), None, np.arange(6.0))
    longer = StoredLosses(store, "three batches", ("first", "second", "third"))
    np.testing.assert_array_equal(longer.get((1, 2), 1), np.ones(3))
    assert longer.get((1, 2), 2) is None
    assert longer.get((1, 2), None) is None
    np.testing.assert_array_equal(short.get((1, 2), None), np.arange(6.0))


def test_other_schemes_and_losses_are_kept_apart_in_the_same_file(store: EvaluationStore) -> None:
    losses = StoredLosses(store, "whole", ("first",))
    losses.put((1,), None, np.zeros(3))
    losses.put((1,), 0, np.zeros(3))
    other = losses.branch("kl")
    assert other.get((1,), None) is None
    assert other.get((1,), 0) is None
    other.put((1,), 0, np.ones(3))
    np.testing.assert_array_equal(losses.branch("kl").get((1,), 0), np.ones(3))
    np.testing.assert_array_equal(losses.get((1,), 0), np.zeros(3))
    assert losses.branch("mse").get((1,), 0) is None


def test_a_simulator_measures_what_the_store_does_not_hold(
    store: EvaluationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(16, 8, 3))
    contexts = tuple(f"batch {b}" for b in range(simulator.n_batches))
    plan = np.array([1, 2])
    expected = simulator.loss(plan)
    assert simulator.keep_losses(StoredLosses(store, "run", contexts)).loss(plan) == expected
    assert store.count("run") == 1

    def forbidden(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("mpsearch.simulate.runner.Runner.run_batch", forbidden)
    again = simulator.on_data(simulator.batches)
    assert again.keep_losses(StoredLosses(store, "run", contexts)).loss(plan) == expected
    found = again.keep_losses(StoredLosses(store, "other run", contexts)).loss(plan)
    assert found == expected


def test_a_full_disk_is_one_line_and_keeps_what_was_measured(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "e.sqlite") as store:
        store.put("c", (0, 0), np.ones(4))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JobError, match=r"e\.sqlite: must be written, but .*full; .* is kept"):
            store.put("c", (0, 1), np.ones(100_000))
    with EvaluationStore(tmp_path / "e.sqlite") as store:
        assert [key for key, _ in store.items("c")] == [(0, 0)]
