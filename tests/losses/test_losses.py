"""Losses against oracles in numpy and brute force, through models whose outputs are given numbers."""

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import DataError
from mpsearch.graph.importer import import_onnx
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import estimate_mean

Array = NDArray[np.float64]
SPACE = SearchSpace("losses", (find_scheme("fp32"), find_scheme("nvfp4")), "fp32")
FULL, LOW = np.array([0]), np.array([1])
N, WIDTH = 12, 16


def simulator(
    folder: Path,
    weight_shape: Sequence[int],
    arrays: Mapping[str, NDArray[np.generic]],
    *,
    loss: str | None,
    end: str = "Identity",
    outputs: Sequence[str] = ("y",),
    batch_size: int = 5,
) -> Simulator:
    """One MatMul of x, then ``end``; a second output is twice the first, squared."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(weight_shape, dtype=np.float32)
    shape = ["n", *arrays["x"].shape[1:]]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "fc")]
    nodes.append(helper.make_node(end, ["h"], ["y"], "end"))
    if "z" in outputs:
        nodes.append(helper.make_node("Mul", ["h", "h"], ["z"], "square"))
    out = [*shape[:-1], weight_shape[-1]]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if "attention_mask" in arrays:
        nodes.append(helper.make_node("Identity", ["attention_mask"], ["kept"], "keep"))
        mask_shape = ["n", arrays["x"].shape[1]]
        inputs.append(
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, mask_shape)
        )
    graph = helper.make_graph(
        nodes,
        "losses",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, out) for name in outputs],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(model, path)
    batches = make_batches(dict(arrays), batch_size=batch_size)
    return Simulator(import_onnx(path), SPACE, batches, loss=loss, device="cpu")


def draw(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def outputs_of(sim: Simulator, assignment: NDArray[np.int64] | None) -> dict[str, Array]:
    found = sim.run(dict(sim.batches.arrays), assignment)
    return {name: tensor.numpy().astype(np.float64) for name, tensor in found.items()}


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_cross_entropy_is_the_increase_of_the_labels_negative_log_likelihood(
    tmp_path: Path,
) -> None:
    labels = np.random.default_rng(2).integers(0, 5, N)
    sim = simulator(
        tmp_path, (WIDTH, 5), {"x": draw(N, WIDTH), "labels": labels}, loss=None, end="Softmax"
    )
    nll = [-np.log(outputs_of(sim, a)["y"][np.arange(N), labels]) for a in (None, LOW)]
    assert (sim.loss_kind, sim.unit) == ("nll", "nats")
    np.testing.assert_allclose(sim.losses(LOW), nll[1] - nll[0], rtol=1e-4, atol=1e-6)


def test_positions_without_a_label_do_not_count(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(-1, 5, (N, 7))
    labels[:, 0] = 1
    x = draw(N, 7, WIDTH)
    sim = simulator(tmp_path, (WIDTH, 5), {"x": x, "labels": labels}, loss="nll", end="Softmax")
    y = [np.log(outputs_of(sim, a)["y"]) for a in (None, LOW)]
    for i, losses in enumerate(sim.losses(LOW)):
        at = [(t, labels[i, t]) for t in range(7) if labels[i, t] >= 0]
        expected = np.mean([y[0][i, t, c] - y[1][i, t, c] for t, c in at])
        assert losses == pytest.approx(expected, rel=1e-4, abs=1e-6)


def brute_ctc(log_p: Array, labels: list[int], blank: int) -> float:
    """-log of the probability of all paths that spell the labels."""
    total = 0.0
    for path in product(range(log_p.shape[1]), repeat=len(log_p)):
        merged = [c for t, c in enumerate(path) if t == 0 or path[t - 1] != c]
        if [c for c in merged if c != blank] == labels:
            total += float(np.exp(sum(log_p[t, c] for t, c in enumerate(path))))
    return -float(np.log(total))


@pytest.mark.parametrize(("loss", "blank"), [("ctc", 0), ("ctc_last", 3), (None, 0)])
def test_ctc_is_the_sum_over_all_alignments(tmp_path: Path, loss: str | None, blank: int) -> None:
    rows = [[1, 2], [2, -1], [1, 1], [2, 1]]
    labels = np.array(rows) + (0 if blank == 0 else -1) * (np.array(rows) > 0)
    arrays = {"x": draw(4, 5, WIDTH) / 4, "labels": labels}
    sim = simulator(tmp_path, (WIDTH, 4), arrays, loss=loss, end="Softmax", batch_size=3)
    reference = sim.reference_losses()
    before, after = (np.log(outputs_of(sim, a)["y"]) for a in (None, LOW))
    for i, row in enumerate(labels):
        wanted = [int(c) for c in row if c >= 0]
        own = brute_ctc(before[i], wanted, blank) / len(wanted)
        assert reference[i] == pytest.approx(own, rel=1e-4)
        change = brute_ctc(after[i], wanted, blank) / len(wanted) - own
        assert sim.losses(LOW)[i] == pytest.approx(change, rel=1e-3, abs=1e-5)


def test_the_accuracy_of_label_sequences_is_that_of_the_best_path(tmp_path: Path) -> None:
    arrays = {"x": draw(N, 6, WIDTH), "labels": np.full((N, 3), -1)}
    sim = simulator(tmp_path, (WIDTH, 4), arrays, loss="kl", end="Softmax")
    spelled = []
    for path in outputs_of(sim, None)["y"].argmax(-1):
        merged = [c for t, c in enumerate(path) if t == 0 or path[t - 1] != c]
        spelled.append([c for c in merged if c != 0])
    labels = np.full((N, 6), -1)
    for i in range(0, N, 2):
        labels[i, : len(spelled[i])] = spelled[i]
    for i in range(1, N, 2):
        labels[i, :2] = [3, 3]
    sim = simulator(tmp_path, (WIDTH, 4), arrays | {"labels": labels}, loss="ctc", end="Softmax")
    hits = sim.scores(None)["accuracy"]
    assert hits[::2].tolist() == [1.0] * (N // 2)
    assert hits[1::2].sum() == sum(spelled[i] == [3, 3] for i in range(1, N, 2))


def test_label_sequences_that_cannot_be_spelled_are_refused(tmp_path: Path) -> None:
    x = draw(4, 3, WIDTH)
    with pytest.raises(DataError, match="must be classes below 4 other than the blank 0"):
        simulator(
            tmp_path,
            (WIDTH, 4),
            {"x": x, "labels": np.zeros((4, 2), int)},
            loss="ctc",
            end="Softmax",
        )
    with pytest.raises(DataError, match="must be no longer than the 3 positions"):
        simulator(
            tmp_path,
            (WIDTH, 4),
            {"x": x, "labels": np.ones((4, 3), int)},
            loss="ctc",
            end="Softmax",
        )


def test_regression_against_labels_is_relative_squared_error(tmp_path: Path) -> None:
    labels = draw(N, 3, seed=5)
    sim = simulator(tmp_path, (WIDTH, 3), {"x": draw(N, WIDTH), "labels": labels}, loss=None)
    full, low = outputs_of(sim, None)["y"], outputs_of(sim, LOW)["y"]
    each = [np.square(y - labels).mean(1) / full.var() for y in (full, low)]
    assert sim.unit == "relative MSE"
    np.testing.assert_allclose(sim.losses(LOW), each[1] - each[0], rtol=1e-3, atol=1e-6)


def test_without_labels_several_outputs_count_alike(tmp_path: Path) -> None:
    arrays = {"x": draw(N, WIDTH)}
    both = simulator(tmp_path, (WIDTH, 3), arrays, loss="mse", outputs=("y", "z"))
    full, low = outputs_of(both, None), outputs_of(both, LOW)
    expected = np.mean(
        [np.square(low[name] - full[name]).mean(1) / full[name].var() for name in ("y", "z")], 0
    )
    np.testing.assert_allclose(both.losses(LOW), expected, rtol=1e-4)
    one = simulator(tmp_path, (WIDTH, 3), arrays, loss="mse:z", outputs=("y", "z"))
    part = np.square(low["z"] - full["z"]).mean(1) / full["z"].var()
    np.testing.assert_allclose(one.losses(LOW), part, rtol=1e-4)


def test_padding_does_not_count_in_a_divergence(tmp_path: Path) -> None:
    mask = np.ones((N, 6), np.int64)
    for i in range(N):
        mask[i, 1 + i % 6 :] = 0
    arrays = {"x": draw(N, 6, WIDTH), "attention_mask": mask}
    sim = simulator(tmp_path, (WIDTH, 4), arrays, loss="kl", end="Softmax")
    p, q = (np.log(outputs_of(sim, a)["y"]) for a in (None, LOW))
    each = (np.exp(p) * (p - q)).sum(-1)
    expected = (each * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(sim.losses(LOW), expected, rtol=1e-3, atol=1e-7)


def test_the_worst_slice_is_the_largest_mean_of_a_slice_with_its_own_error(tmp_path: Path) -> None:
    slices = np.array(["a", "b", "c"] * (N // 3))
    arrays = {"x": draw(N, WIDTH), "slice": slices}
    sim = simulator(tmp_path, (WIDTH, 4), arrays, loss="kl:worst_slice", end="Softmax")
    plain = simulator(tmp_path, (WIDTH, 4), arrays, loss="kl", end="Softmax")
    losses = plain.losses(LOW)
    parts = {name: estimate_mean(losses[slices == name]) for name in "abc"}
    worst = max(parts.values(), key=lambda part: part.mean)
    assert sim.loss(LOW) == sim.evaluate(LOW[None])[0] == worst
    assert sim.unit == "nats, worst slice"
    assert sim.loss(LOW).mean > plain.loss(LOW).mean
    first = estimate_mean(losses[:5][slices[:5] == "a"])
    found = sim.evaluate(LOW[None], fraction=0.2)[0]
    assert found.mean >= first.mean


def test_a_worst_slice_needs_slices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold an array 'slice' for worst_slice"):
        simulator(tmp_path, (WIDTH, 4), {"x": draw(N, WIDTH)}, loss="kl:worst_slice")


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of a user's own measures."""

    def margin(
        outputs: Mapping[str, NDArray[np.generic]], batch: Mapping[str, NDArray[np.generic]]
    ) -> Array:
        return outputs["y"].max(-1).astype(np.float64) + 0 * batch["labels"]

    def distance(
        outputs: Mapping[str, NDArray[np.generic]], batch: Mapping[str, NDArray[np.generic]]
    ) -> Array:
        return np.abs(outputs["y"].sum(-1) - batch["x"].sum(-1))

    distance.higher_is_better = False  # type: ignore[attr-defined]
    module = ModuleType("user_quality")
    module.margin, module.distance = margin, distance  # type: ignore[attr-defined]
    module.broken = lambda outputs, batch: outputs["nothing"]  # type: ignore[attr-defined]
    module.scalar = lambda outputs, batch: 1.0  # type: ignore[attr-defined]
    module.nan = lambda outputs, batch: np.full(len(batch["x"]), np.nan)  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "user_quality", module)
    return module


def test_the_users_own_quality_is_a_drop_whichever_way_is_better(
    tmp_path: Path, user_module: ModuleType
) -> None:
    arrays = {"x": draw(N, WIDTH), "labels": np.zeros(N, int)}
    for name, sign in (("margin", -1), ("distance", 1)):
        sim = simulator(tmp_path, (WIDTH, 4), arrays, loss=f"quality:user_quality:{name}")
        full, low = outputs_of(sim, None)["y"], outputs_of(sim, LOW)["y"]
        measure = getattr(user_module, name)
        expected = sign * (measure({"y": low}, arrays) - measure({"y": full}, arrays))
        np.testing.assert_allclose(sim.losses(LOW), expected, rtol=1e-3, atol=1e-5)
        assert sim.unit == f"drop of {name}"


def test_accuracy_is_a_quality_without_code(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 5, N)
    arrays = {"x": draw(N, WIDTH), "labels": labels}
    sim = simulator(tmp_path, (WIDTH, 5), arrays, loss="quality:accuracy", end="Softmax")
    hits = [(outputs_of(sim, a)["y"].argmax(1) == labels).astype(float) for a in (None, LOW)]
    np.testing.assert_array_equal(sim.losses(LOW), hits[0] - hits[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "user_quality:broken raised KeyError"),
        ("scalar", r"one number for each of 5 samples, got shape \[\]"),
        ("nan", "must return finite numbers"),
        ("number", "must be a function, got int"),
        ("missing", "must be accuracy or module:function that imports"),
    ],
)
def test_a_quality_that_cannot_be_used_says_why(
    tmp_path: Path, user_module: ModuleType, name: str, message: str
) -> None:
    assert user_module
    with pytest.raises(DataError, match=message):
        simulator(tmp_path, (WIDTH, 4), {"x": draw(N, WIDTH)}, loss=f"quality:user_quality:{name}")


def test_a_quality_has_no_gradient(tmp_path: Path, user_module: ModuleType) -> None:
    assert user_module
    arrays = {"x": draw(N, WIDTH), "labels": np.zeros(N, int)}
    sim = simulator(tmp_path, (WIDTH, 4), arrays, loss="quality:user_quality:margin")
    with pytest.raises(DataError, match="no gradient"):
        sim.loss_and_gradient(np.array([[0.5, 0.5]]))


def test_an_unknown_loss_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"loss must be one of kl, nll, .*got 'l1'"):
        simulator(tmp_path, (WIDTH, 4), {"x": draw(N, WIDTH)}, loss="l1")
