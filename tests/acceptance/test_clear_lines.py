"""What cannot be taken is said in a line that names what to mend."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import mpsearch as mp
from mpsearch.errors import ArgumentError, MpsearchError
from tests.support.command_line import Mpsearch


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    *,
    dims: tuple[object, ...] = ("n", 32),
    kind: int = TensorProto.FLOAT,
    output: onnx.ValueInfoProto | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, list(dims))],
        [output or helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def two_layers() -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]


def draw(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) / 4).astype(dtype)


def simulate(model: Path, x: np.ndarray, folder: Path) -> mp.Simulator:
    np.savez(folder / "d.npz", x=x)
    return mp.Simulator(
        mp.import_onnx(model), mp.read_space("npu"), mp.read_batches(folder / "d.npz")
    )


def test_nan_in_a_weight_names_the_weight_and_its_layer(tmp_path: Path) -> None:
    w = draw(32, 32)
    w[1, 2] = np.nan
    model = save(tmp_path / "m.onnx", two_layers(), {"w": w, "v": draw(32, 16)})
    with pytest.raises(MpsearchError, match=r"'w' of layer 'a' holds 1 NaN or Inf .* at \[1, 2\]"):
        simulate(model, draw(64, 32), tmp_path)


def test_a_float64_model_says_what_to_export(tmp_path: Path) -> None:
    arrays = {"w": draw(32, 32, dtype=np.float64), "v": draw(32, 16, dtype=np.float64)}
    model = save(tmp_path / "m.onnx", two_layers(), arrays, kind=TensorProto.DOUBLE)
    with pytest.raises(MpsearchError, match=r"'w' of layer 'a' is float64; export .* in float32"):
        simulate(model, draw(64, 32, dtype=np.float64), tmp_path)


def test_data_without_samples_say_so(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx", two_layers(), {"w": draw(32, 32), "v": draw(32, 16)})
    with pytest.raises(MpsearchError, match=r"at least one sample, but array 'x' .*\[0, 32\]"):
        simulate(model, draw(0, 32), tmp_path)


def test_maps_of_skl2onnx_name_the_option_that_leaves_them_out(
    tmp_path: Path, mpsearch: Mpsearch
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Softmax", ["a"], ["p"]),
        helper.make_node(
            "ZipMap", ["p"], ["y"], "maps", domain="ai.onnx.ml", classlabels_int64s=[*range(16)]
        ),
    ]
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, value))
    model = save(
        tmp_path / "m.onnx",
        nodes,
        {"w": draw(32, 16)},
        output=helper.make_value_info("y", maps),
    )
    np.savez(tmp_path / "d.npz", x=draw(16, 32))
    options = ["--data", tmp_path / "d.npz", "--device", "npu_200tops", "-o", tmp_path / "run"]
    result = mpsearch("search", model, *options)
    assert result.code == 1
    assert "zipmap" in result.err
    assert "False" in result.err
    assert not (tmp_path / "run").exists()


def test_models_of_trees_are_out_of_scope(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "y"],
        domain="ai.onnx.ml",
        coefficients=[0.5] * 64,
        intercepts=[0.0, 0.0],
        classlabels_ints=[0, 1],
    )
    model = save(tmp_path / "m.onnx", [node], {})
    with (
        pytest.warns(UserWarning, match="runs in onnxruntime"),
        pytest.raises(MpsearchError, match=r"got only LinearClassifier; .* are out of scope"),
    ):
        simulate(model, draw(16, 32), tmp_path)


def test_whole_numbers_are_no_labels_of_a_regression(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, {"w": draw(32, 1)})
    np.savez(tmp_path / "d.npz", x=draw(16, 32), labels=np.arange(16) % 3)
    batches = mp.read_batches(tmp_path / "d.npz")
    with pytest.raises(MpsearchError, match=r"'y' has one column: .* must be floats"):
        mp.Simulator(mp.import_onnx(model), mp.read_space("npu"), batches)


def test_inspect_says_how_to_bind_sizes(tmp_path: Path, mpsearch: Mpsearch) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, {"w": draw(32, 16)}, dims=("n", "t", 32))
    assert "--shape x=?,?,32" in mpsearch("inspect", model).out
    bound = mpsearch("inspect", model, "--shape", "x=?,10,32").out
    assert "--shape" not in bound
    assert "0.0102 MFLOP" in bound


def test_the_package_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mpsearch", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("mpsearch ")


def test_swapped_arguments_name_what_each_must_be(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx", two_layers(), {"w": draw(32, 32), "v": draw(32, 16)})
    simulator = simulate(model, draw(16, 32), tmp_path)
    table = mp.score_sensitivity(simulator, metric="sqnr")
    costs = mp.estimate_costs(simulator.graph, simulator.space, mp.read_device("npu_200tops"))
    swapped: list[tuple[Any, tuple[Any, ...], str]] = [
        (mp.find_front, (table,), "`problem` must be a Problem, as build_problem"),
        (mp.build_problem, (costs, table), "`table` must be a Table, as score_sensitivity"),
        (mp.choose_point, (table,), "`front` must be a Front, as find_front"),
        (mp.make_plan, (table, simulator), "`point` must be a Point, as choose_point"),
        (mp.estimate_costs, (simulator.space, simulator.graph, "h100_nvl_94gb"), "`graph` must be"),
        (mp.Simulator, (simulator.space, simulator.graph, simulator.batches), "`graph` must be"),
    ]
    for function, arguments, words in swapped:
        with pytest.raises(ArgumentError, match=words.replace("(", r"\(")):
            function(*arguments)
