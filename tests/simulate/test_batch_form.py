"""Samples run together give what they give apart, whatever the model does with its batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import mpsearch as mp
from mpsearch.data.batches import Batches, make_batches
from mpsearch.errors import DataError, ModelError
from mpsearch.graph.model import ModelGraph
from mpsearch.simulate.simulator import Simulator
from tests.support.small_models import space_of

Array = NDArray[np.generic]
Shape = Sequence[int | str]
RNG = np.random.default_rng(0)
SPACE = space_of("fp32", "fp8")


def noise(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape | None],
    **constants: Array,
) -> Path:
    """Write a model of float32 tensors."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(n, 1, list(s)) for n, s in inputs.items()],
        [
            helper.make_tensor_value_info(n, 1, None if s is None else list(s))
            for n, s in outputs.items()
        ],
        [numpy_helper.from_array(np.asarray(x), n) for n, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path


def run_alone(
    path: Path, axes: Mapping[str, int | None], arrays: Mapping[str, Array]
) -> list[Array]:
    """The first output of each sample, run alone in onnxruntime with its axis at ``axes``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for i in range(len(next(iter(arrays.values())))):
        feed = {
            name: x[i] if axes[name] is None else np.expand_dims(x[i], axes[name])
            for name, x in arrays.items()
        }
        found.append(session.run(None, feed)[0])
    return found


def simulate(path: Path, batches: Batches, **settings: object) -> tuple[ModelGraph, Simulator]:
    graph = mp.import_onnx(path, **settings)  # type: ignore[arg-type]
    return graph, Simulator(graph, SPACE, batches, loss="mse", device="cpu")


def compare(simulator: Simulator, alone: Sequence[Array], axis: int | None) -> None:
    """All samples at once equal each alone, along ``axis`` of the output."""
    whole = [simulator.run(simulator.feed(b)) for b in range(simulator.n_batches)]
    (name,) = simulator.program.outputs
    at = 0 if axis is None else axis
    got = np.concatenate([np.asarray(outputs[name]) for outputs in whole], at)
    wanted = np.stack(alone) if axis is None else np.concatenate(alone, at)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


MIXERS = {
    "softmax over axis 0": [helper.make_node("Softmax", ["h"], ["p"], axis=0)],
    "a mean of everything": [
        helper.make_node("ReduceMean", ["h"], ["a"], keepdims=1),
        helper.make_node("Sub", ["h", "a"], ["p"]),
    ],
    "a Reshape to [1, -1, 6]": [
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("Softmax", ["r"], ["p"], axis=1),
    ],
    "the first sample taken": [
        helper.make_node("Gather", ["h", "zero"], ["g"], axis=0),
        helper.make_node("Add", ["h", "g"], ["p"]),
    ],
}


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("batch", [1, "n"])
def test_samples_that_would_change_each_other_are_run_apart(
    tmp_path: Path, name: str, batch: int | str
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        *MIXERS[name],
        helper.make_node("MatMul", ["p", "v"], ["y"], "second"),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        {"x": [batch, 5, 4]},
        {"y": None},
        w=noise(4, 6),
        v=noise(6, 3),
        shape=np.array([1, -1, 6]),
        zero=np.array([0]),
    )
    arrays = {"x": noise(7, 5, 4)}
    losses = []
    for size in (1, 3, 32):
        _, simulator = simulate(path, make_batches(arrays, batch_size=size))
        assert simulator.batches.run_size == 1
        assert simulator.n_batches == -(-7 // size)
        compare(simulator, run_alone(path, {"x": 0}, arrays), 0)
        losses.append(simulator.losses(np.ones(2, np.int64)))
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[0], losses[2])


def test_a_fixed_batch_of_one_that_does_not_mix_is_run_together(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Softmax", ["h"], ["y"], axis=-1),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 4]}, {"y": [1, 6]}, w=noise(4, 6))
    arrays = {"x": noise(7, 4)}
    _, simulator = simulate(path, make_batches(arrays))
    assert simulator.batches.run_size == 32
    compare(simulator, run_alone(path, {"x": 0}, arrays), 0)


def test_a_model_of_eight_rows_is_fed_eight_and_none_is_dropped(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("Softmax", ["r"], ["p"], axis=0),
        helper.make_node("Mul", ["h", "p"], ["y"]),
    ]
    shape = np.array([8, 6])
    path = save(
        tmp_path / "m.onnx", nodes, {"x": [8, 4]}, {"y": [8, 6]}, w=noise(4, 6), shape=shape
    )
    arrays = {"x": noise(19, 4)}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    filled = np.concatenate([arrays["x"], np.repeat(arrays["x"][-1:], 5, 0)])
    parts = [session.run(None, {"x": filled[i : i + 8]})[0] for i in (0, 8, 16)]
    wanted = np.concatenate(parts)[:19]
    for size in (1, 8, 13, 32):
        _, simulator = simulate(path, make_batches(arrays, batch_size=size))
        assert (simulator.batches.run_size, simulator.n_runs) == (8, 3)
        got = np.asarray(simulator.run(arrays)["y"])
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
        assert len(simulator.losses(np.ones(1, np.int64))) == 19


def lstm(path: Path, dims: Shape, *, mix: bool = False) -> Path:
    """A time-first LSTM, with a state that has its batch in the middle."""
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "h0", "c0"], ["s"], "lstm", hidden_size=5),
        helper.make_node("Squeeze", ["s", "one"], ["y"]),
    ]
    if mix:
        nodes[1].output[0] = "z"
        nodes.append(helper.make_node("ReduceMax", ["z"], ["m"], keepdims=1))
        nodes.append(helper.make_node("Sub", ["z", "m"], ["y"]))
    return save(
        path,
        nodes,
        {"x": dims, "h0": [1, dims[1], 5], "c0": [1, dims[1], 5]},
        {"y": [*dims[:2], 5]},
        w=noise(1, 20, 4),
        r=noise(1, 20, 5),
        one=np.array([1]),
    )


STATES = {"x": noise(6, 9, 4), "h0": noise(6, 1, 5), "c0": noise(6, 1, 5)}


@pytest.mark.parametrize("dims", [("t", "n", 4), (9, "n", 4), (9, 1, 4), ("n", "m", 4)])
def test_a_model_that_reads_time_first_has_its_batch_found(tmp_path: Path, dims: Shape) -> None:
    path = lstm(tmp_path / "m.onnx", dims)
    alone = run_alone(path, {"x": 1, "h0": 1, "c0": 1}, STATES)
    _, simulator = simulate(path, make_batches(STATES, batch_size=4))
    assert simulator.batches.axes == {"x": 1, "h0": 1, "c0": 1}
    compare(simulator, alone, 1)
    assert simulator.heads[0].batch_axis == 1


def test_the_axis_of_samples_can_be_named(tmp_path: Path) -> None:
    path = lstm(tmp_path / "m.onnx", ("t", "n", 4), mix=True)
    batches = make_batches(STATES, batch_size=4)
    axes = {"x": 1, "h0": 1, "c0": -2}
    graph, simulator = simulate(path, batches, batch_axes=axes)
    assert graph.batch_axes == {"x": 1, "h0": 1, "c0": 1}
    assert graph.unbound == ("x[0]",)
    assert simulator.batches.run_size == 1
    compare(simulator, run_alone(path, graph.batch_axes, STATES), 1)
    with pytest.raises(ModelError, match="must be one of its 3 axes, got 3"):
        mp.import_onnx(path, batch_axes={"x": 3})
    with pytest.raises(ModelError, match="must name inputs"):
        mp.import_onnx(path, batch_axes={"z": 0})


def test_an_axis_that_nothing_tells_must_be_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("ReduceMax", ["h"], ["m"], keepdims=1),
        helper.make_node("Sub", ["h", "m"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": ["a", "b", 4]}, {"y": None}, w=noise(4, 6))
    arrays = {"x": noise(6, 9, 4)}
    with pytest.raises(DataError, match=r"x=0 or x=1.*--batch-axis") as error:
        simulate(path, make_batches(arrays))
    assert "\n" not in str(error.value)
    _, simulator = simulate(path, make_batches(arrays), batch_axes={"x": 1})
    compare(simulator, run_alone(path, {"x": 1}, arrays), 1)


def test_a_table_that_all_samples_share_is_read_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Add", ["h", "table"], ["y"]),
    ]
    path = save(
        tmp_path / "m.onnx", nodes, {"x": ["n", 3, 4], "table": [3, 6]}, {"y": None}, w=noise(4, 6)
    )
    arrays = {"x": noise(6, 3, 4), "table": np.repeat(noise(1, 3, 6), 6, 0)}
    _, simulator = simulate(path, make_batches(arrays, batch_size=4))
    assert simulator.batches.run_size == 4
    compare(simulator, run_alone(path, {"x": 0, "table": None}, arrays), 0)


def test_a_model_without_a_batch_takes_each_sample_whole(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["adjacent", "x"], ["h"], "gather"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "first"),
    ]
    inputs = {"adjacent": ["n", "n"], "x": ["n", 4]}
    path = save(tmp_path / "m.onnx", nodes, inputs, {"y": ["n", 6]}, w=noise(4, 6))
    arrays = {"adjacent": noise(5, 7, 7), "x": noise(5, 7, 4)}
    _, simulator = simulate(path, make_batches(arrays))
    alone = run_alone(path, {"adjacent": None, "x": None}, arrays)
    for run, wanted in enumerate(alone):
        got = np.asarray(simulator.run(simulator.feed_run(run))["y"])
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert simulator.losses(np.ones(2, np.int64)).shape == (5,)


def test_samples_that_are_parts_of_one_whole_are_run_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["adjacent", "x"], ["h"], "gather"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "first"),
    ]
    inputs = {"adjacent": ["n", "n"], "x": ["n", 4]}
    path = save(tmp_path / "m.onnx", nodes, inputs, {"y": ["n", 6]}, w=noise(4, 6))
    arrays = {"adjacent": noise(40, 40), "x": noise(40, 4)}
    _, simulator = simulate(path, make_batches(arrays, batch_size=16))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = np.asarray(simulator.run(simulator.feed(0))["y"])
    np.testing.assert_allclose(got, session.run(None, arrays)[0], rtol=1e-4, atol=1e-4)
    assert simulator.losses(np.ones(2, np.int64)).shape == (40,)


def test_samples_that_run_in_no_way_are_refused_in_one_line(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"], "first"),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        {"x": ["n", "k"]},
        {"y": None},
        w=noise(4, 6),
        shape=np.array([3, 4]),
    )
    with pytest.raises(DataError, match=r"together or one at a time.*batch-axis") as error:
        simulate(path, make_batches({"x": noise(10, 7)}))
    assert "\n" not in str(error.value)
