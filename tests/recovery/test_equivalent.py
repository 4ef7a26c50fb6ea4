"""Equivalent transforms change no function, and make rounding easier where channels differ."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

import mpsearch as mp
from mpsearch.data.batches import Batches, make_batches
from mpsearch.graph.model import ModelGraph
from mpsearch.recovery.equivalent import (
    Constants,
    awq,
    change_basis,
    hadamard,
    rotate,
    smooth,
)
from mpsearch.recovery.folds import Fold, find_folds
from mpsearch.schemes import find_scheme
from mpsearch.simulate.changes import Changes, change_constants
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.attention_models import grouped
from tests.support.graph_models import save
from tests.support.torch_models import attention_net, build, conv_net, images, sentences

Array = NDArray[np.generic]
SPACE = SearchSpace("test", tuple(map(find_scheme, ("fp32", "int8", "w4a16", "nvfp4"))), "fp32")
INT8, W4A16 = 1, 2


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def normed_net() -> tuple[onnx.ModelProto, Batches]:
    """A norm with strong channels before two products, then a rectifier, a pool of tokens and a head."""
    gain = np.ones(16, np.float32)
    gain[[3, 9]] = 40
    weights = {
        "g": gain, "b": normal(1, 16), "w1": normal(2, 16, 24) / 4, "w2": normal(3, 16, 24) / 4,
        "b1": normal(4, 24), "w3": normal(5, 24, 8) / 5,
    }  # fmt: skip
    for name in ("w1", "w2"):
        weights[name][[3, 9]] /= 40
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], name="norm", axis=-1),
        helper.make_node("MatMul", ["n", "w1"], ["h"], name="up"),
        helper.make_node("Add", ["h", "b1"], ["h1"], name="bias"),
        helper.make_node("Relu", ["h1"], ["r"], name="relu"),
        helper.make_node("MatMul", ["n", "w2"], ["u"], name="gate"),
        helper.make_node("Mul", ["r", "u"], ["m"], name="product"),
        helper.make_node("MatMul", ["m", "w3"], ["y"], name="down"),
    ]
    model = build(nodes, {"x": ["n", 5, 16]}, {"y": ["n", 5, 8]}, weights)
    return model, make_batches({"x": normal(6, 48, 5, 16)}, batch_size=16)


def graph_of(model: onnx.ModelProto, folder: Path) -> ModelGraph:
    return mp.import_onnx(save(model, folder))


def outputs(graph: ModelGraph, data: Batches) -> list[NDArray[np.float64]]:
    simulator = Simulator(graph, replace(SPACE, schemes=SPACE.schemes[:1]), data)
    return [x.double().numpy() for x in simulator.run(next(data.iterate())).values()]


def basis_of(fold: Fold, kind: str) -> torch.Tensor:
    if kind == "factors":
        return torch.from_numpy(np.exp(normal(7, fold.channels)))
    size = fold.block & -fold.block
    return torch.block_diag(*[hadamard(size)] * (fold.channels // size))


def models() -> dict[str, tuple[onnx.ModelProto, Batches]]:
    decoder, feeds = grouped()
    return {
        "norm": normed_net(),
        "convolutions": (conv_net(softmax=False), images()),
        "attention": (attention_net(), sentences()),
        "decoder": (decoder, make_batches(feeds, batch_size=2)),
    }


@pytest.mark.parametrize("name", ["norm", "convolutions", "attention", "decoder"])
@pytest.mark.parametrize("kind", ["factors", "rotation"])
def test_the_function_stays(tmp_path: Path, name: str, kind: str) -> None:
    model, data = models()[name]
    graph = graph_of(model, tmp_path)
    folds = [fold for fold in find_folds(graph) if kind == "factors" or fold.is_linear]
    assert folds or (kind == "rotation" and name != "attention")
    changed: Constants = {}
    for fold in folds:
        change_basis(graph, fold, basis_of(fold, kind), changed)
    other = change_constants(graph, Changes(constants=changed))
    for name_of, array in changed.items():
        assert array.shape == graph.constants[name_of].shape
        assert not np.allclose(array, graph.constants[name_of])
    for before, after in zip(outputs(graph, data), outputs(other, data), strict=True):
        np.testing.assert_allclose(after, before, rtol=2e-4, atol=2e-4 * np.abs(before).max())


def test_every_place_that_can_take_factors_is_found(tmp_path: Path) -> None:
    found = {fold.value: fold for fold in find_folds(graph_of(normed_net()[0], tmp_path))}
    assert {part.constant for part in found["n"].parts} == {"g", "b"}
    assert [part.constant for part in found["m"].parts] in (["w1", "b1"], ["b1", "w1"], ["w2"])
    assert not found["m"].is_linear
    assert len(found["n"].readers) == 2


def test_what_others_read_is_left_alone(tmp_path: Path) -> None:
    """A norm that a residual reads too, a sigmoid, a tied weight, an output: none may change."""
    model, _ = normed_net()
    for extra, output in (
        (helper.make_node("Identity", ["n"], ["y2"], name="also"), "y2"),
        (helper.make_node("MatMul", ["m", "w3"], ["y2"], name="again"), "y2"),
    ):
        other = onnx.ModelProto()
        other.CopyFrom(model)
        other.graph.node.append(extra)
        other.graph.output.append(helper.make_tensor_value_info(output, 1, None))
        value = extra.input[0]
        folder = tmp_path / extra.name
        folder.mkdir()
        assert value not in {fold.value for fold in find_folds(graph_of(other, folder))}


def loss_of(constants: Constants, graph: ModelGraph, data: Batches, scheme: int) -> float:
    changed = change_constants(graph, Changes(constants=constants))
    simulator = Simulator(changed, SPACE, data)
    return simulator.loss(np.full(len(simulator.groups), scheme)).mean


@pytest.mark.parametrize(("method", "scheme"), [(smooth, INT8), (awq, W4A16)])
def test_factors_help_where_channels_differ(tmp_path: Path, method: object, scheme: int) -> None:
    model, data = normed_net()
    graph = graph_of(model, tmp_path)
    calibrated = Simulator(graph, SPACE, data.take(24)).calibrated
    schemes = [SPACE.schemes[scheme]] * len(graph.layers)
    constants = method(calibrated, schemes, list(data.take(24).iterate()))  # type: ignore[operator]
    assert constants
    plain = loss_of({}, graph, data, scheme)
    assert loss_of(constants, graph, data, scheme) < (0.35 if method is smooth else 1.0) * plain


def test_rotations_spread_outliers_of_a_head(tmp_path: Path) -> None:
    model = attention_net()
    for tensor in model.graph.initializer:
        if tensor.name in ("wv", "wo"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            if tensor.name == "wv":
                array[:, 3] *= 60
            else:
                array[3] /= 60
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    graph = graph_of(model, tmp_path)
    data = sentences(32)
    calibrated = Simulator(graph, SPACE, data).calibrated
    schemes = [SPACE.schemes[INT8]] * len(graph.layers)
    constants = rotate(calibrated, schemes, list(data.iterate()))
    assert set(constants) == {"wv", "wo"}
    assert loss_of(constants, graph, data, INT8) < 0.8 * loss_of({}, graph, data, INT8)


def test_nothing_changes_where_nothing_is_rounded(tmp_path: Path) -> None:
    model, data = normed_net()
    graph = graph_of(model, tmp_path)
    calibrated = Simulator(graph, SPACE, data).calibrated
    schemes = [SPACE.schemes[0]] * len(graph.layers)
    assert smooth(calibrated, schemes, list(data.iterate())) == {}


def test_hadamard_matrices_are_orthogonal() -> None:
    for size in (1, 2, 16, 64):
        matrix = hadamard(size)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(size))
        assert torch.equal(matrix, matrix.T)
