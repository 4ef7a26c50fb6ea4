"""A store that runs share keeps what was measured, whoever writes, and refuses what it cannot read."""

import multiprocessing
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import JobError
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.store.exchange import export_parquet, import_into
from mpsearch.runs.store.layered import LayeredStore
from mpsearch.runs.store.shared import SharedStore, decode, encode, rounded


def write_some(path: str, writer: int) -> None:
    with SharedStore(path) as store:
        for i in range(200):
            store.put(f"context {i % 3}", (writer, i), np.full(4, float(i)))
            store.put("same", (i,), np.full(4, float(i)))


def test_several_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=write_some, args=(path, w)) for w in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with SharedStore(path) as store:
        assert sum(store.counts().values()) == 3 * 200 + 200
        assert store.check() == ""
        np.testing.assert_array_equal(store.get("same", (7,)), np.full(4, 7.0))


@pytest.mark.parametrize("assignment", [(0, 1, 255), (0, 256, 3), ()])
def test_an_assignment_is_its_own_key(assignment: tuple[int, ...]) -> None:
    assert decode(encode(assignment)) == assignment


def test_losses_are_kept_as_float32_and_the_first_stay(tmp_path: Path) -> None:
    with SharedStore(str(tmp_path / "s")) as store:
        losses = np.array([0.1, 1e-30, -3.0])
        store.put("c", (1, 2), losses)
        store.put("c", (1, 2), losses + 1)
        np.testing.assert_array_equal(store.get("c", (1, 2)), losses.astype(np.float32))
        assert store.get("c", (2, 1)) is None
        assert store.get("d", (1, 2)) is None


def test_a_run_has_the_same_losses_whoever_measured_them(tmp_path: Path) -> None:
    losses = np.array([0.1, 0.7])
    found = []
    for name in ("first", "second"):
        with (
            EvaluationStore(tmp_path / f"{name}.sqlite") as own,
            SharedStore(str(tmp_path / "shared.sqlite")) as shared,
        ):
            store = LayeredStore(own, shared)
            known = store.get("c", (1,))
            found.append(store.put("c", (1,), losses) if known is None else known)
            assert own.get("c", (1,)) is not None  # the folder is whole without the shared store
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], rounded(losses))


def test_without_a_shared_store_nothing_is_rounded(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "e.sqlite") as own:
        losses = np.array([0.1, 0.7])
        np.testing.assert_array_equal(LayeredStore(own).put("c", (1,), losses), losses)


def test_a_run_goes_on_alone_where_the_shared_store_fails(tmp_path: Path) -> None:
    with (
        EvaluationStore(tmp_path / "e.sqlite") as own,
        SharedStore(str(tmp_path / "shared.sqlite")) as shared,
    ):
        store = LayeredStore(own, shared)
        shared._db.rows("DROP TABLE losses")
        with pytest.warns(UserWarning, match="shared.sqlite: .*goes on with its own file"):
            store.put("c", (1,), np.ones(2))
        store.put("c", (2,), np.ones(2))
        assert own.count("c") == 2


def test_a_damaged_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"no database at all, but long enough to be read as a header" * 20)
    before = path.read_bytes()
    with pytest.raises(JobError, match=r"store store\.sqlite: must be a store.* --store"):
        SharedStore(str(path))
    assert path.read_bytes() == before


def test_a_store_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    SharedStore(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE mpsearch_store SET version = 9")
    with pytest.raises(JobError, match="is of version 9, this mpsearch reads version 1"):
        SharedStore(str(path))


def test_another_database_and_a_runs_own_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(JobError, match="holds other tables"):
        SharedStore(str(tmp_path / "other.sqlite"))
    EvaluationStore(tmp_path / "evaluations.sqlite").close()
    with pytest.raises(JobError, match="store import"):
        SharedStore(str(tmp_path / "evaluations.sqlite"))


def test_a_server_that_does_not_answer_is_one_line_without_a_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(JobError, match=r"store localhost/team: cannot be reached") as caught:
        SharedStore("postgresql://me:secret@localhost:1/team")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(JobError, match="a path or a postgresql:// URL, got one of 'mysql'"):
        SharedStore("mysql://here/there")


def shared_by_a_run(folder: Path, contexts: dict[str, str]) -> Path:
    """A run folder in which three assignments were measured, without a shared store."""
    run = folder / "run"
    run.mkdir()
    with EvaluationStore(run / "evaluations.sqlite") as own:
        store = LayeredStore(own)
        store.share(contexts, ["scheme a", "scheme b"], {"file": "m.onnx"})
        for s in (0, 1):
            store.put("first batch", (s, 1 - s), np.array([0.5, s]))
        store.put("whole", (0, 1), np.ones(4))
    return run


def test_what_runs_measured_goes_into_a_store_and_through_a_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    run = shared_by_a_run(tmp_path, {"first batch": "anywhere"})
    with SharedStore(str(tmp_path / "one.sqlite")) as one:
        assert import_into(one, run) == 2
        assert import_into(one, run) == 0
        assert export_parquet(one, tmp_path / "all.parquet") == 2
    with SharedStore(str(tmp_path / "two.sqlite")) as two:
        numbers = two.number_schemes(["other", "scheme b", "scheme a"])
        assert import_into(two, tmp_path / "all.parquet") == 2
        assert import_into(two, tmp_path / "one.sqlite") == 0
        key = (numbers[1], numbers[2])  # scheme b, scheme a: as this store numbers them
        np.testing.assert_array_equal(two.get("anywhere", key), [0.5, 1.0])
        assert two.contexts()["anywhere"] == {"file": "m.onnx"}


def test_what_is_no_source_of_losses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.parquet").write_text("words")
    with SharedStore(str(tmp_path / "store.sqlite")) as store:
        with pytest.raises(JobError, match="empty: must be a run folder that measured"):
            import_into(store, tmp_path / "empty")
        with pytest.raises(JobError, match="nowhere: must be a run folder, a store or"):
            import_into(store, tmp_path / "nowhere")
        if find_spec("pyarrow"):
            with pytest.raises(JobError, match=r"words\.parquet: must be a Parquet file"):
                import_into(store, tmp_path / "words.parquet")
