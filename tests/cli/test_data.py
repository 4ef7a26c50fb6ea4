"""Pictures, text and tables become data that fit the model; what does not is said in one line."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from mpsearch.cli.app import app
from mpsearch.data.batches import read_batches


def save_model(
    path: Path, inputs: dict[str, tuple[int, list[int | str]]], weights: int = 4
) -> Path:
    """Write a model that reduces every input; what it computes plays no part here."""
    nodes, parts = [], []
    for name, (kind, _) in inputs.items():
        nodes.append(helper.make_node("Cast", [name], [f"{name}.f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceMean", [f"{name}.f"], [f"{name}.m"], keepdims=0))
        parts.append(f"{name}.m")
        assert kind
    nodes.append(helper.make_node("Sum", parts, ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(weights, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path


def run(*words: object) -> str:
    """Return what the command says; it must succeed."""
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*words: object) -> str:
    """Return the one line that the command fails with."""
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def picture(path: Path, height: int, width: int, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    return save_model(tmp_path / "m.onnx", {"x": (TensorProto.FLOAT, ["n", 3, 8, 12])})


def test_inputs_may_have_any_name(tmp_path: Path) -> None:
    """`file` and `allow_pickle` are arguments of numpy's own writer."""
    names = ("file", "allow_pickle")
    model = save_model(tmp_path / "m.onnx", dict.fromkeys(names, (TensorProto.FLOAT, ["n"])))
    table = tmp_path / "t.csv"
    table.write_text("file,allow_pickle\n1,4\n2,5\n3,6\n")
    run(table, "--for", model, "-o", tmp_path / "t.npz")
    arrays = read_batches(tmp_path / "t.npz").arrays
    assert [arrays[name].tolist() for name in names] == [[1, 2, 3], [4, 5, 6]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    picture(folder / "cat/a.png", 20, 20, (255, 0, 0))
    picture(folder / "cat/b.jpg", 9, 30, (0, 255, 0))
    picture(folder / "dog/c.png", 30, 9, (0, 0, 255))
    (folder / "notes.md").write_text("no picture")
    return folder


def load(path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(path) as found:
        return dict(found)


def test_pictures_are_resized_and_normalised_as_the_model_reads_them(
    vision: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.npz"
    said = run(pictures, "--for", vision, "-o", out, "--mean", "0.5", "--std", "0.5,0.5,0.25")
    made = load(out)
    assert made["x"].shape == (3, 3, 8, 12)
    np.testing.assert_allclose(made["x"][0, :, 0, 0], [1, -1, -2])  # red
    np.testing.assert_array_equal(made["labels"], [0, 0, 1])
    assert made["sample_id"].tolist() == ["cat/a.png", "cat/b.jpg", "dog/c.png"]
    assert said.count("\n") == 1
    for part in ("3 samples", "[3, 3, 8, 12]", "rgb nchw, stretched to 8×12", "− 0.5",
                 "2 classes from the names of the folders (cat=0, dog=1)"):  # fmt: skip
        assert part in said.replace("\n", "")
    assert len(read_batches(out)) == 3


def test_other_layouts_orders_and_integers(pictures: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m.onnx", {"x": (TensorProto.UINT8, ["n", 8, 12, 3])})
    run(pictures, "--for", model, "-o", tmp_path / "c.npz", "--order", "bgr", "--limit", 2)
    made = load(tmp_path / "c.npz")["x"]
    assert (made.dtype, made.shape) == (np.uint8, (2, 8, 12, 3))
    np.testing.assert_array_equal(made[0, 0, 0], [0, 0, 255])


@pytest.mark.parametrize(("mode", "corner"), [("stretch", 1.0), ("crop", 1.0), ("pad", 0.0)])
def test_resize_modes_treat_the_far_corner_of_a_square_differently(
    vision: Path, tmp_path: Path, mode: str, corner: float
) -> None:
    picture(tmp_path / "p/a.png", 20, 20, (255, 255, 255))
    run(tmp_path / "p", "--for", vision, "-o", tmp_path / "c.npz", "--resize", mode)
    made = load(tmp_path / "c.npz")["x"]
    np.testing.assert_allclose([made[0, 0, 0, 0], made[0, 0, -1, -1]], [1.0, corner])


def test_labels_of_pictures_from_a_table(vision: Path, pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "l.csv"
    table.write_text("file,label\ndog/c.png,7\ncat/a.png,3\n")
    run(pictures, "--for", vision, "-o", tmp_path / "c.npz", "--labels", table)
    np.testing.assert_array_equal(load(tmp_path / "c.npz")["labels"], [7, 3])


def test_a_table_may_not_reach_out_of_the_folder(
    vision: Path, pictures: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "secret.png", 4, 4, (1, 1, 1))
    table = tmp_path / "l.csv"
    table.write_text("../secret.png,7\n")
    words = pictures, "--for", vision, "-o", tmp_path / "c.npz", "--labels", table
    assert "files must lie below pictures, got '../secret.png'" in refusal(*words)


def test_a_link_may_not_reach_out_of_the_folder(
    vision: Path, pictures: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "secret.png", 4, 4, (1, 1, 1))
    (pictures / "cat/link.png").symlink_to(tmp_path / "secret.png")
    said = refusal(pictures, "--for", vision, "-o", tmp_path / "c.npz")
    assert "files must lie below pictures, got 'cat/link.png'" in said


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"<svg/>"])
def test_a_bad_picture_is_named(
    vision: Path, pictures: Path, tmp_path: Path, content: bytes
) -> None:
    (pictures / "cat/b.jpg").write_bytes(content)
    said = refusal(pictures, "--for", vision, "-o", tmp_path / "c.npz")
    assert "cat/b.jpg: cannot be read as a picture" in said
    assert str(tmp_path) not in said
    assert not list(tmp_path.glob("*c.npz"))


def test_an_unknown_size_is_asked_for_and_can_be_given(pictures: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m.onnx", {"x": (TensorProto.FLOAT, ["n", 3, "h", "w"])})
    words = pictures, "--for", model, "-o", tmp_path / "c.npz"
    assert "--shape x=?,3,224,224" in refusal(*words)
    run(*words, "--shape", "x=?,3,16,16")
    assert load(tmp_path / "c.npz")["x"].shape == (3, 3, 16, 16)


def test_a_missing_package_is_named_with_what_installs_it(
    vision: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setattr("mpsearch.data.pictures.find_spec", lambda name: None)
    said = refusal(pictures, "--for", vision, "-o", tmp_path / "c.npz")
    assert "pip install 'mpsearch[data]'" in said


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "one": 2, "two": 3, "three": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_text_fills_the_inputs_that_the_model_asks_for(tokenizer: Path, tmp_path: Path) -> None:
    inputs = ["input_ids", "attention_mask", "token_type_ids", "position_ids"]
    model = save_model(tmp_path / "m.onnx", {n: (TensorProto.INT64, ["n", "t"]) for n in inputs})
    text = tmp_path / "lines.txt"
    text.write_text("one two\n\nthree\nnever two one one\n")
    said = run(text, "--for", model, "-o", tmp_path / "c.npz")
    made = load(tmp_path / "c.npz")
    np.testing.assert_array_equal(made["input_ids"], [[2, 3, 0, 0], [4, 0, 0, 0], [1, 3, 2, 2]])
    np.testing.assert_array_equal(made["attention_mask"].sum(1), [2, 1, 4])
    np.testing.assert_array_equal(made["position_ids"][2], [0, 1, 2, 3])
    assert "3 samples" in said
    assert "4 tokens by tokenizer.json" in said.replace("\n", " ")


def test_text_is_cut_to_the_models_own_length_and_caches_are_empty(
    tokenizer: Path, tmp_path: Path
) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        {
            "tokens": (TensorProto.INT32, ["n", 3]),
            "past.key": (TensorProto.FLOAT, ["n", 2, "p", 4]),
        },
    )
    text, labels = tmp_path / "lines.txt", tmp_path / "labels.txt"
    text.write_text("one two three one\ntwo\n")
    labels.write_text("good\nbad\n")
    out = tmp_path / "c.npz"
    shown = json.loads(
        run(text, "--for", model, "-o", out, "--json", "--tokenizer", tokenizer, "--labels", labels)
    )
    made = load(out)
    assert made["tokens"].dtype == np.int32
    np.testing.assert_array_equal(made["tokens"], [[2, 3, 4], [3, 0, 0]])
    assert made["past.key"].shape == (2, 2, 0, 4)
    assert shown["classes"] == ["bad", "good"]
    assert "1 samples cut" in shown["how"]


def test_a_missing_tokenizer_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    model = save_model(tmp_path / "m.onnx", {"ids": (TensorProto.INT64, ["n", "t"])})
    (tmp_path / "lines.txt").write_text("one\n")
    said = refusal(tmp_path / "lines.txt", "--for", model, "-o", tmp_path / "c.npz")
    assert "give it with --tokenizer" in said


def test_a_table_becomes_inputs_and_labels(tmp_path: Path) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        {"a": (TensorProto.FLOAT, ["n", 2]), "b": (TensorProto.INT64, ["n", 1, 2])},
    )
    table = tmp_path / "t.csv"
    table.write_text("p,q,kind,r,s\n0.5,1,yes,3,4\n2,3e-1,no,5,6\n")
    said = run(table, "--for", model, "-o", tmp_path / "c.npz", "--label", "kind")
    made = load(tmp_path / "c.npz")
    np.testing.assert_allclose(made["a"], [[0.5, 1], [2, 0.3]])
    np.testing.assert_array_equal(made["b"], [[[3, 4]], [[5, 6]]])
    np.testing.assert_array_equal(made["labels"], [1, 0])
    assert "columns p–q to a, r–s to b" in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("p,q\n1,2\n3,x\n", "row 3, column q holds 'x'"),
        ("p,q,r\n1,2,3\n", "the model takes 2 columns (a float32 [any, 2]), got 3: p, q, r"),
        ("p,q\n1\n", "row 2 must have 2 cells, got 1"),
        ("p,q\n1,nan\n", "must be finite"),
        ("", "must hold rows, got none"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str, words: str) -> None:
    model = save_model(tmp_path / "m.onnx", {"a": (TensorProto.FLOAT, ["n", 2])})
    (tmp_path / "t.csv").write_text(content)
    said = refusal(tmp_path / "t.csv", "--for", model, "-o", tmp_path / "c.npz")
    assert words in said


def test_files_that_exist_or_are_of_another_kind_are_refused(vision: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.npz"
    assert "must be a folder of pictures" in refusal(vision, "--for", vision, "-o", out)
    out.write_bytes(b"mine")
    assert "c.npz: exists" in refusal(vision, "--for", vision, "-o", out)
    assert out.read_bytes() == b"mine"
