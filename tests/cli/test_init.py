"""What ``init`` writes runs as it is, whatever axes are dynamic."""

import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from mpsearch.cli.app import app


def save(path: Path, shape: list[int | str | None]) -> Path:
    """Write Conv, mean over positions and MatMul of pictures with dynamic sizes."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), name)
            for name, s in (("k", (16, 3, 3, 3)), ("w", (16, 4)))
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def mpsearch(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("shape", [["n", 3, 8, 8], [None, 3, "h", "w"], [1, 3, "h", "w"]])
def test_without_data_the_job_prices_the_model_at_sizes_that_it_states(
    tmp_path: Path, shape: list[int | str | None]
) -> None:
    model = save(tmp_path / "m.onnx", shape)
    said = mpsearch("init", model)
    assert ("assumed: x of" in said) == ("h" in shape)
    assert ("\n[shapes]" in (tmp_path / "m.job.toml").read_text()) == ("h" in shape)
    mpsearch("search", tmp_path / "m.job.toml", "-o", tmp_path / "run")
    assert (tmp_path / "run/costs.json").exists()


def test_with_data_the_job_takes_their_sizes_and_finds_plans(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx", ["n", 3, "h", "w"])
    x = np.random.default_rng(1).standard_normal((16, 3, 8, 10)).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x)
    said = mpsearch("init", model, "--data", tmp_path / "c.npz")
    assert "assumed" not in said
    mpsearch("search", tmp_path / "m.job.toml", "-o", tmp_path / "run")
    assert (tmp_path / "run/front.json").exists()


def test_commands_that_prepare_take_the_axis_of_the_samples(tmp_path: Path) -> None:
    """Time first, both axes free: the batch is said, and stands in the job that is written."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
            helper.make_node("ReduceMean", ["m"], ["y"], axes=[0], keepdims=0),
        ],
        "g",
        [info("x", TensorProto.FLOAT, ["a", "b", 8])],
        [info("y", TensorProto.FLOAT, ["b", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = tmp_path / "m.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), model)
    sizes = ["--shape", "x=5,0,8", "--batch-axis", "x=1"]
    found = json.loads(mpsearch("inspect", model, *sizes, "--json"))
    assert found["inputs"][0]["shape"] == [5, None, 8]
    assert found["layers"][0]["gemms"][0]["batch_in_m"]
    np.savez(tmp_path / "c.npz", x=np.ones((16, 5, 8), np.float32))
    mpsearch("init", model, "--batch-axis", "x=1", "--data", tmp_path / "c.npz")
    job = tomllib.loads((tmp_path / "m.job.toml").read_text())
    assert job["batch_axes"] == {"x": 1}
    mpsearch("search", tmp_path / "m.job.toml", "-o", tmp_path / "run")


def test_a_table_is_made_into_data_for_a_model_whose_samples_are_columns(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", transA=1, transB=1)],
        "g",
        [info("x", TensorProto.FLOAT, [4, "n"])],
        [info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    model, table = tmp_path / "m.onnx", tmp_path / "t.csv"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), model)
    table.write_text("a,b,c,d\n" + "1,2,3,4\n5,6,7,8\n" * 3)
    mpsearch("data", table, "--for", model, "--batch-axis", "x=1", "-o", tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as made:
        assert made["x"].shape == (6, 4)
