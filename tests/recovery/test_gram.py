"""Recovery streams its Gram matrices: few passes, bounded memory, the weights that one layer alone gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from mpsearch.data.batches import Batches, make_batches
from mpsearch.graph.model import ModelGraph
from mpsearch.program.compile import compile_graph
from mpsearch.recovery.gram import Recovery
from mpsearch.recovery.obs import find_gram, recover
from mpsearch.schemes import find_scheme
from tests.support.torch_models import build, imported

OBS = replace(find_scheme("fp8_2of4"), recovery="obs")
LAYERS = 4


@pytest.fixture
def graph(tmp_path: Path) -> ModelGraph:
    """Two linear layers that read x, and two that follow."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((16, 16), dtype=np.float32) for i in range(LAYERS)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["q"], "q"),
        helper.make_node("MatMul", ["x", "w1"], ["k"], "k"),
        helper.make_node("Mul", ["q", "k"], ["m"], "mul"),
        helper.make_node("MatMul", ["m", "w2"], ["u"], "up"),
        helper.make_node("Relu", ["u"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w3"], ["y"], "down"),
    ]
    model = build(nodes, {"x": ["n", 6, 16]}, {"y": ["n", 6, 16]}, weights)
    return imported(model, tmp_path)


@pytest.fixture
def batches() -> Batches:
    rng = np.random.default_rng(1)
    return make_batches({"x": rng.standard_normal((20, 6, 16), dtype=np.float32)}, batch_size=8)


class Data:
    """Feeds that count how often they are read."""

    def __init__(self, batches: Batches, **more: np.ndarray) -> None:
        self.batches, self.more, self.read = batches, more, 0

    def __call__(self) -> list[dict[str, torch.Tensor]]:
        self.read += 1
        feeds = []
        for i, batch in enumerate(self.batches.iterate()):
            rows = slice(8 * i, 8 * i + 8)
            extra = {name: torch.from_numpy(array[rows]) for name, array in self.more.items()}
            feeds.append({name: torch.from_numpy(x) for name, x in batch.items()} | extra)
        return feeds


def recovered(recovery: Recovery, graph: ModelGraph) -> list[torch.Tensor]:
    program = compile_graph(graph, torch.device("cpu"))
    weights = [
        program.constants[program.slots[layer.gemms[0].right.value]] for layer in graph.layers
    ]
    return [recovery(i, 0, weight, OBS) for i, weight in enumerate(weights)]


def make(graph: ModelGraph, data: Data, limit: int) -> Recovery:
    return Recovery(graph, compile_graph(graph, torch.device("cpu")), data, limit=limit)


def test_all_layers_are_recovered_in_one_pass_where_memory_allows(
    graph: ModelGraph, batches: Batches
) -> None:
    data = Data(batches)
    recovery = make(graph, data, 10**9)
    recovered(recovery, graph)
    assert data.read == 1


def test_what_was_recovered_is_kept(graph: ModelGraph, batches: Batches) -> None:
    data = Data(batches)
    recovery = make(graph, data, 0)
    first = recovered(recovery, graph)
    passes = data.read
    again = recovered(recovery, graph)
    assert data.read == passes
    assert all(a is b for a, b in zip(first, again, strict=True))


def test_passes_follow_from_the_memory_and_change_nothing(
    graph: ModelGraph, batches: Batches
) -> None:
    size = 8 * 16 * 16
    expected = recovered(make(graph, Data(batches), 10**9), graph)
    for limit, passes in ((0, 3), (size, 3), (2 * size, 2), (3 * size, 1)):  # q and k share one
        data = Data(batches)
        found = recovered(make(graph, data, limit), graph)
        assert data.read == passes
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_the_weight_is_that_of_the_layers_own_gram_matrix(
    graph: ModelGraph, batches: Batches
) -> None:
    gram = find_gram(torch.from_numpy(batches.arrays["x"]))
    program = compile_graph(graph, torch.device("cpu"))
    weight = program.constants[program.slots["w0"]]
    right = graph.layers[0].gemms[0].right
    expected = recover(
        weight, "2:4", gram, reduction_axis=right.reduction_axis, channel_axes=right.channel_axes
    )
    found = recovered(make(graph, Data(batches), 10**9), graph)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_is_left_out_of_the_gram_matrix(tmp_path: Path, batches: Batches) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["y"], "fc"),
        helper.make_node("Cast", ["mask"], ["z"], "cast", to=1),
    ]
    weights = {"w0": rng.standard_normal((16, 16), dtype=np.float32)}
    model = build(
        nodes,
        {"x": ["n", 6, 16], "mask": ["n", 6]},
        {"y": ["n", 6, 16], "z": ["n", 6]},
        weights,
        types={"mask": 7},
    )
    graph = imported(model, tmp_path)
    mask = (np.arange(6) < rng.integers(1, 6, (20, 1))).astype(np.int64)
    program = compile_graph(graph, torch.device("cpu"))
    recovery = Recovery(graph, program, Data(batches, mask=mask), limit=10**9, mask="mask")
    right = graph.layers[0].gemms[0].right
    rows = torch.from_numpy(batches.arrays["x"])[torch.from_numpy(mask).bool()]
    expected = recover(
        program.constants[program.slots["w0"]],
        "2:4",
        find_gram(rows),
        reduction_axis=right.reduction_axis,
        channel_axes=right.channel_axes,
    )
    found = recovery(0, 0, program.constants[program.slots["w0"]], OBS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
