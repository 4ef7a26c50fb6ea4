import io
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mpsearch.data import batches
from mpsearch.data.batches import call_batches, make_batches, read_batches
from mpsearch.data.fit import check_batches, data_shapes
from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph, Value
from tests.support.handmade_graph import graph_of, linear


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_inputs_and_reserved_arrays_are_told_apart(tmp_path: Path) -> None:
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    path = save(tmp_path / "d.npz", x=x, labels=np.arange(5), slice=np.array(list("aabbb")))
    batches = read_batches(path, batch_size=2)
    assert list(batches.arrays) == ["x"]
    assert batches.labels is not None
    assert batches.slice is not None
    assert batches.sample_id is None
    assert len(batches) == 5
    rows = [batch["x"] for batch in batches.iterate()]
    assert [len(r) for r in rows] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(rows), x)


def test_limit_and_take_keep_the_first_samples_of_every_array(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", x=np.ones((6, 2), np.float32), labels=np.arange(6))
    limited, taken = read_batches(path, limit=4), read_batches(path).take(4)
    assert limited.digest == taken.digest != read_batches(path).digest
    assert limited.labels is not None
    np.testing.assert_array_equal(limited.labels, [0, 1, 2, 3])
    assert len(read_batches(path).take(99)) == 6


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    save(tmp_path / "b.npz", x=np.full((2, 1), 2.0))
    save(tmp_path / "a.npz", x=np.full((1, 1), 1.0))
    np.testing.assert_array_equal(read_batches(tmp_path).arrays["x"], [[1.0], [2.0], [2.0]])


def test_files_of_a_folder_must_hold_the_same_arrays(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", x=np.ones((1, 1)))
    save(tmp_path / "b.npz", y=np.ones((1, 1)))
    with pytest.raises(DataError, match=r"b\.npz.*a\.npz has x, this one y") as error:
        read_batches(tmp_path)
    one_line(error)


def test_the_digest_speaks_of_contents_not_of_files(tmp_path: Path) -> None:
    x = np.ones((3, 2), np.float32)
    np.savez_compressed(tmp_path / "c.npz", x=x)
    same = read_batches(tmp_path / "c.npz").digest
    assert read_batches(save(tmp_path / "d.npz", x=x)).digest == same
    assert make_batches({"x": x.astype(np.float64)}).digest != same
    assert make_batches({"y": x}).digest != same


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_name_array_and_sample(tmp_path: Path, value: float) -> None:
    x = np.ones((4, 2), np.float32)
    x[2, 1] = value
    with pytest.raises(DataError, match=r"'x' must be finite, but 1 of 4 .* sample 2"):
        read_batches(save(tmp_path / "d.npz", x=x))


def test_pickled_arrays_are_refused_unread(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (sys.exit, ("pickle was executed",))

    path = tmp_path / "d.npz"
    np.savez(path, allow_pickle=True, x=np.array([Trap()], dtype=object))
    with pytest.raises(DataError, match="pickle"):
        read_batches(path)


def test_a_zip_bomb_is_refused_from_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.zeros((1000, 1000)))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(batches, "MAX_EXPANDED_BYTES", 1_000_000)
    monkeypatch.setattr(batches, "_load", lambda _: pytest.fail("the archive was expanded"))
    with pytest.raises(DataError, match="must expand to at most"):
        read_batches(path)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
    with pytest.raises(DataError, match="damaged"):
        read_batches(tmp_path / "d.npz")


@pytest.mark.parametrize(
    "content", [b"", b"no zip at all", b"PK\x03\x04 torn"], ids=["empty", "text", "torn"]
)
def test_what_is_no_npz_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npz.*must be an \.npz file") as error:
        read_batches(tmp_path / "d.npz")
    one_line(error)


def test_a_damaged_member_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", x=np.arange(1000.0))
    raw = bytearray(path.read_bytes())
    raw[600] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"d\.npz: the file is damaged") as error:
        read_batches(path)
    one_line(error)


def test_a_member_that_is_no_array_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match="damaged") as error:
        read_batches(tmp_path / "d.npz")
    one_line(error)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.ones(3)}, "at least one array must be an input"),
        ({"x": np.ones((3, 1)), "labels": np.ones(2)}, "same number of samples; got x 3, labels 2"),
        ({"x": np.float32(1)}, "'x' must have samples as first axis"),
        ({"x": np.ones((0, 2))}, "at least one sample"),
        ({"x": np.array([["a"]])}, "must hold numbers"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(
    arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        make_batches({name: np.asarray(array) for name, array in arrays.items()})
    one_line(error)


def test_missing_files_and_empty_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: cannot be read"):
        read_batches(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"must hold \.npz files"):
        read_batches(tmp_path)


def test_a_function_is_called_only_on_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("my_samples")
    module.make = lambda: {"x": [[1.0], [2.0]]}  # type: ignore[attr-defined]
    module.wrong = lambda: [1.0]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_samples", module)
    assert len(call_batches("my_samples:make")) == 2
    with pytest.raises(DataError, match="cannot be read"):
        read_batches("my_samples:make")
    with pytest.raises(DataError, match="must return a mapping"):
        call_batches("my_samples:wrong")
    with pytest.raises(DataError, match="module:function"):
        call_batches("my_samples:absent")


# inputs x [1, 4] float32 and mask [1, None] int64
GRAPH = replace(graph_of([linear("fc", 1, 2, 4)]), unbound=("mask[1]",))
GOOD = {"x": np.ones((3, 4), np.float32), "mask": np.ones((3, 7), np.int64)}


def test_fitting_arrays_are_accepted_at_any_number_of_samples() -> None:
    check_batches(make_batches(GOOD), GRAPH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.ones((3, 4))}, "must be inputs of handmade.onnx: x, mask; got 'z'"),
        ({"x": np.ones((3, 4))}, "'x' must be float32, got float64"),
        ({"x": np.ones((3, 5), np.float32)}, "'x' must have shape [samples, 4], got [3, 5]"),
        ({"mask": np.ones((3,), np.int64)}, "'mask' must have shape [samples, any], got [3]"),
        ({"mask": None}, "must hold every input of handmade.onnx: mask missing, got x"),
    ],
)
def test_arrays_that_are_not_the_models_inputs_are_named(
    change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    with pytest.raises(DataError, match=re.escape(message)) as error:
        check_batches(make_batches(arrays), GRAPH)
    one_line(error)


def recurrent() -> ModelGraph:
    """Inputs: x [time, batch, 4], state [2, batch, 3] and rate, a number."""
    inputs = (
        Value("x", (5, None, 4), "float32"),
        Value("state", (2, None, 3), "float32"),
        Value("rate", (), "int64"),
    )
    return replace(graph_of([linear("fc", 1, 2, 4)]), inputs=inputs)


RECURRENT = {
    "x": np.arange(120, dtype=np.float32).reshape(6, 5, 4),
    "state": np.zeros((6, 2, 3), np.float32),
    "rate": np.full(6, 16000),
}


def test_samples_are_moved_to_the_axis_where_the_model_has_its_batch() -> None:
    batches = check_batches(make_batches(RECURRENT, batch_size=4), recurrent())
    first, last = batches.iterate()
    assert {name: x.shape for name, x in first.items()} == {
        "x": (5, 4, 4),
        "state": (2, 4, 3),
        "rate": (),
    }
    np.testing.assert_array_equal(first["x"][:, 1], RECURRENT["x"][1])
    assert last["x"].shape == (5, 2, 4)
    assert batches.take(3).feed(0, 9)["x"].shape == (5, 3, 4)
    assert data_shapes(batches, recurrent().inputs, ()) == {
        "x": (5, None, 4),
        "state": (2, None, 3),
        "rate": (),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": np.zeros((5, 6, 4), np.float32)},
            "'x' must have shape [samples, 5, 4] (the model's axis 1 is the batch), got [5, 6, 4]",
        ),
        ({"rate": np.arange(6)}, "'rate' must be the same for all samples"),
    ],
)
def test_arrays_that_lie_otherwise_are_explained(
    change: dict[str, np.ndarray], message: str
) -> None:
    arrays = RECURRENT | change
    n = min(len(array) for array in arrays.values())
    batches = make_batches({name: array[:n] for name, array in arrays.items()})
    with pytest.raises(DataError, match=re.escape(message)):
        check_batches(batches, recurrent())
