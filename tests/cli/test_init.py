"""What ``init`` writes runs as it is, whatever axes are dynamic."""

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
