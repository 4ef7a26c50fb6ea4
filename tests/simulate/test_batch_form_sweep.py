"""Random models in every batch form: samples run in batches are those that onnxruntime runs at the model's own batch.

The long sweep runs with ``-m slow``; MPSEARCH_GRAPHS sets how many graphs it has.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.errors import DataError, MpsearchError, SpaceError
from mpsearch.simulate.simulator import Simulator
from tests.support.small_models import space_of

Array = NDArray[np.generic]
GRAPHS = int(os.environ.get("MPSEARCH_GRAPHS", "520"))
STEPS, WIDTH, SAMPLES = 5, 4, 7
SPACE = space_of("fp32", "fp8")
NODE = helper.make_node


@dataclass(frozen=True)
class Drawn:
    """A model, its data (samples first) and the axis of the samples in each input."""

    model: onnx.ModelProto
    arrays: Mapping[str, Array]
    axes: Mapping[str, int | None]
    rows: int
    name_axes: bool
    words: str


def draw(number: int) -> Drawn:
    """A linear layer, up to four operators that may mix samples, another layer; inputs beside the first."""
    rng = np.random.default_rng([number, 13])
    axis = int(rng.integers(2))
    batch = [1, 3, "n"][rng.integers(3)]
    steps: int | str = "t" if batch == "n" and rng.random() < 0.5 else STEPS
    dims: list[int | str] = [batch, steps] if axis == 0 else [steps, batch]
    inputs: dict[str, list[int | str]] = {"x": [*dims, WIDTH]}
    axes: dict[str, int | None] = {"x": axis}
    arrays = {"x": rng.standard_normal((SAMPLES, STEPS, WIDTH)).astype(np.float32)}
    constants: dict[str, Array] = {
        "w": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "v": rng.standard_normal((WIDTH, 3)).astype(np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "frozen": np.array([1 if batch == "n" else batch, -1, WIDTH]),
        "flat": np.array([-1, WIDTH]),
    }
    nodes, value, words = [NODE("MatMul", ["x", "w"], ["h"], "first")], "h", []
    for step in range(int(rng.integers(1, 5))):
        kind, new = str(rng.choice(KINDS)), f"v{step}"
        words.append(kind)
        nodes += _operators(kind, value, new, rng)
        value = new
    extra = str(rng.choice(["none", "none", "table", "state", "scores"]))
    if extra == "table":
        inputs["table"], axes["table"] = [WIDTH], None
        arrays["table"] = np.repeat(rng.standard_normal((1, WIDTH)).astype(np.float32), SAMPLES, 0)
    elif extra == "state":  # the batch in the middle, whatever the first input has
        inputs["state"], axes["state"] = [1, batch, WIDTH], 1
        arrays["state"] = rng.standard_normal((SAMPLES, 1, WIDTH)).astype(np.float32)
        if axis == 0:  # to [batch, 1, width]
            nodes.append(NODE("Transpose", ["state"], ["moved"], perm=[1, 0, 2]))
    elif extra == "scores":
        inputs["scores"], axes["scores"] = inputs["x"], axis
        arrays["scores"] = rng.standard_normal((SAMPLES, STEPS, WIDTH)).astype(np.float32)
    if extra != "none" and not any(kind in ENDS for kind in words):
        other = "moved" if extra == "state" and axis == 0 else extra
        nodes.append(NODE("Add", [value, other], ["joined"]))
        value = "joined"
    elif extra != "none":
        for name in (extra,):
            del inputs[name], axes[name], arrays[name]
        nodes = [node for node in nodes if node.output[0] != "moved"]
    nodes.append(NODE("MatMul", [value, "v"], ["y"], "second"))
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info(n, 1, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(x, n) for n, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    rows = batch if isinstance(batch, int) else 1
    named = bool(rng.random() < 0.3)
    return Drawn(model, arrays, axes, rows, named, f"{dims} {extra}: {', '.join(words)}")


ENDS = frozenset({"flat", "drop"})
KINDS = (
    *(
        "softmax0",
        "softmax1",
        "softmax2",
        "mean0",
        "mean1",
        "mean",
        "relu",
        "tanh",
        "frozen",
        "flat",
    ),
    *("first0", "first1", "cumsum0", "cumsum1", "norm", "swap", "self", "max", "drop", "relu"),
)


def _operators(kind: str, x: str, y: str, rng: np.random.Generator) -> list[onnx.NodeProto]:
    axis = int(kind[-1]) if kind[-1].isdigit() else 0
    inner = f"{y}.inner"
    if kind.startswith("softmax"):
        return [NODE("Softmax", [x], [y], axis=axis if axis < 2 else -1)]
    if kind in ("mean0", "mean1"):
        return [
            NODE("ReduceMean", [x], [inner], axes=[axis], keepdims=1),
            NODE("Sub", [x, inner], [y]),
        ]
    if kind in ("mean", "max"):
        op = "ReduceMean" if kind == "mean" else "ReduceMax"
        return [NODE(op, [x], [inner], keepdims=1), NODE("Sub", [x, inner], [y])]
    if kind in ("first0", "first1"):
        return [NODE("Gather", [x, "zero"], [inner], axis=axis), NODE("Add", [x, inner], [y])]
    if kind in ("cumsum0", "cumsum1"):
        return [NODE("CumSum", [x, "one" if axis else "zero"], [y])]
    if kind == "norm":
        return [
            NODE("ReduceL2", [x], [inner], axes=[-1], keepdims=1),
            NODE("Exp", [inner], [f"{y}.exp"]),
            NODE("Div", [x, f"{y}.exp"], [y]),
        ]
    if kind == "swap":
        return [
            NODE("Transpose", [x], [inner], perm=[1, 0, 2]),
            NODE("Transpose", [inner], [y], perm=[1, 0, 2]),
        ]
    if kind == "self":
        scores, soft = f"{y}.scores", f"{y}.soft"
        return [
            NODE("Transpose", [x], [inner], perm=[0, 2, 1]),
            NODE("MatMul", [x, inner], [scores]),
            NODE("Softmax", [scores], [soft], axis=-1),
            NODE("MatMul", [soft, x], [y]),
        ]
    if kind == "frozen":
        shape = f"{y}.shape"
        return [
            NODE("Shape", [x], [shape]),
            NODE("Reshape", [x, "frozen"], [inner]),
            NODE("Softmax", [inner], [f"{y}.soft"], axis=1),
            NODE("Reshape", [f"{y}.soft", shape], [y]),
        ]
    if kind == "flat":
        shape = f"{y}.shape"
        return [
            NODE("Shape", [x], [shape]),
            NODE("Reshape", [x, "flat"], [inner]),
            NODE("Softmax", [inner], [f"{y}.soft"], axis=int(rng.integers(2))),
            NODE("Reshape", [f"{y}.soft", shape], [y]),
        ]
    if kind == "drop":
        return [
            NODE("ReduceMean", [x], [inner], axes=[int(rng.integers(2))], keepdims=1),
            NODE("Mul", [inner, x], [y]),
        ]
    return [NODE("Tanh" if kind == "tanh" else "Relu", [x], [y])]


def check(number: int, folder: Path) -> str:
    """Return ``together``, ``apart`` or ``refused``.

    Raises:
        AssertionError: The simulator's outputs are not onnxruntime's, or what it says is not one line.
    """
    drawn = draw(number)
    path = folder / f"{number}.onnx"
    onnx.save(drawn.model, path)
    batches = make_batches(
        drawn.arrays, batch_size=int(np.random.default_rng(number).integers(1, 9))
    )
    said = drawn.axes if drawn.name_axes else None
    try:
        simulator = Simulator(
            mp.import_onnx(path, batch_axes=said), SPACE, batches, loss="mse", device="cpu"
        )
    except (DataError, SpaceError) as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        unbound = "--shape" in refusal  # a reduction over an axis that nobody bound
        clear = unbound or (said is None and "--batch-axis" in refusal)
        assert clear, f"{number} ({drawn.words}): {refusal}"
        return "refused"
    axes = {name: simulator.batches.axes.get(name, 0) for name in drawn.axes}
    if said is not None or "t" not in drawn.words.partition("]")[0]:
        assert axes["x"] == drawn.axes["x"], f"{number} ({drawn.words}): {axes}"
    head = simulator.heads[0]
    parts = [simulator.run(simulator.feed(b))["y"] for b in range(simulator.n_batches)]
    got = np.concatenate([np.asarray(head.samples_first(part)) for part in parts])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = []
    for start in range(0, SAMPLES, drawn.rows):
        rows = np.minimum(np.arange(start, start + drawn.rows), SAMPLES - 1)
        feed = {
            name: x[start] if axes[name] is None else np.moveaxis(x[rows], 0, axes[name] or 0)
            for name, x in drawn.arrays.items()
        }
        found = session.run(None, feed)[0]
        first = found[None] if head.batch_axis is None else np.moveaxis(found, head.batch_axis, 0)
        wanted.append(first)
    whole = np.concatenate(wanted)[:SAMPLES]
    assert got.shape == whole.shape, (number, drawn.words, got.shape, whole.shape)
    np.testing.assert_allclose(got, whole, rtol=2e-3, atol=2e-4, err_msg=f"{number}: {drawn.words}")
    assert len(simulator.losses(np.ones(len(simulator.groups), np.int64))) == SAMPLES
    return "apart" if simulator.batches.run_rows else "together"


def test_a_few_batch_forms_are_run_as_onnxruntime_runs_them(tmp_path: Path) -> None:
    found = [check(number, tmp_path) for number in range(24)]
    assert {"apart", "together"} <= set(found)


@pytest.mark.slow
def test_batch_forms_are_run_as_onnxruntime_runs_them(tmp_path: Path) -> None:
    found, wrong = [], []
    for number in range(GRAPHS):
        try:
            found.append(check(number, tmp_path))
        except (AssertionError, MpsearchError) as error:
            wrong.append(str(error).strip()[:300])
    assert not wrong, "\n".join(wrong)
    assert found.count("refused") < GRAPHS / 10, found.count("refused")
