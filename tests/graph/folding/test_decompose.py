"""What is spelt out on import computes the same, and shows the products inside as layers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_model
from mpsearch.graph.model import ModelGraph
from mpsearch.schemes import find_scheme
from mpsearch.space.allowed import uniform
from mpsearch.space.space import SearchSpace
from tests.support import attention_models as written
from tests.support.attention_models import Arrays
from tests.support.graph_models import assert_same_outputs, integers, model, noise, run, tensor

node = helper.make_node
SPACE = SearchSpace("s", tuple(map(find_scheme, ("fp16", "int8", "nvfp4"))))
PARTS = ("attention.q", "attention.k", "attention.v")
CORE = ("attention.scores", "attention.values", "attention.out")
SWIGLU = ("feed-forward.gate", "feed-forward.up", "feed-forward.down", "head")
CASES: dict[str, tuple[Callable[[], tuple[onnx.ModelProto, Arrays]], tuple[str, ...]]] = {
    "fused encoder": (
        written.fused_encoder,
        ("attention.qkv", *CORE, "feed-forward.up", "feed-forward.down"),
    ),
    "fused causal": (written.causal_fused, ("attention.qkv", *CORE)),
    "across": (
        written.separate_heads,
        tuple(role.replace("attention", "cross-attention") for role in (*PARTS, *CORE)),
    ),
    "grouped, one token": (written.grouped, (*PARTS, *CORE, *SWIGLU)),
    "grouped, first tokens": (partial(written.grouped, 0), (*PARTS, *CORE, *SWIGLU)),
    "grouped, packed, windowed": (
        partial(written.grouped, 4, packed=True, window=3),
        ("attention.qkv", *CORE, *SWIGLU),
    ),
    "grouped, windowed": (partial(written.grouped, 0, window=2), (*PARTS, *CORE, *SWIGLU)),
}


def read(proto: onnx.ModelProto, feeds: Arrays) -> ModelGraph:
    return import_model(proto, "m", Path(), {name: x.shape for name, x in feeds.items()})


@pytest.mark.parametrize("name", CASES)
def test_onnxruntimes_attention_is_layers_natively_and_equally(name: str) -> None:
    make, roles = CASES[name]
    proto, feeds = make()
    graph = read(proto, feeds)
    assert tuple(layer.role for layer in graph.layers) == roles
    simulator = mp.Simulator(graph, SPACE, make_batches(feeds))
    assert not simulator.program.fallbacks()
    found = simulator.run(feeds).values()
    for got, want in zip(found, run(proto, feeds), strict=True):
        assert isinstance(want, np.ndarray)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)
    assert simulator.loss(uniform(SPACE, graph, "nvfp4", simulator.allowed)).mean > 0


def test_sites_inside_a_spelt_operator_are_named_below_it() -> None:
    graph = read(*written.grouped())
    names = [layer.name for layer in graph.layers]
    assert names[3:5] == ["gqa/scores", "gqa/values"]
    assert [group.reason for group in graph.groups if len(group.layers) > 1] == ["one input"] * 2


def test_attention_with_a_past_stays_one_operator_whose_projection_is_a_layer() -> None:
    nodes = [
        node("Attention", ["x", "w", "b", "", "past"], ["y", "present"], domain="com.microsoft",
             num_heads=2),
    ]  # fmt: skip
    proto = model(
        nodes, {"x": [2, 3, 8], "past": [2, 2, 2, 4, 4]}, ["y", "present"],
        [tensor("w", 8, 24), tensor("b", 24)], domains=["com.microsoft"],
    )  # fmt: skip
    feeds: Arrays = {"x": noise(2, 3, 8), "past": noise(2, 2, 2, 4, 4)}
    graph = read(proto, feeds)
    assert [(layer.role, len(layer.gemms)) for layer in graph.layers] == [("attention.qkv", 1)]
    assert_same_outputs(proto, graph, feeds)


@pytest.mark.parametrize("opset", [11, 17])
def test_chunks_and_stacks_through_sequences(opset: int) -> None:
    nodes = [
        node("SplitToSequence", ["x", "two"], ["s"], axis=2),
        node("SequenceAt", ["s", "last"], ["c"]),
        node("SequenceAt", ["s", "zero"], ["a"]),
        node("MatMul", ["a", "w"], ["m"]),
        node("SequenceConstruct", ["m", "m"], ["pair"]),
        node("SequenceInsert", ["pair", "c", "zero"], ["three"]),
        node("SequenceLength", ["three"], ["n"]),
        node("ConcatFromSequence", ["three"], ["stacked"], axis=1, new_axis=1),
        node("SplitToSequence", ["x"], ["rows"], axis=1, keepdims=0),
        node("ConcatFromSequence", ["rows"], ["joined"], axis=1),
    ]
    proto = model(
        nodes, {"x": ["batch", 3, 4]}, ["stacked", "joined", "n"],
        [tensor("w", 2, 2), integers("two", 2), integers("zero", 0), integers("last", -1)],
        opset=opset, types={"n": TensorProto.INT64},
    )  # fmt: skip
    graph = import_model(proto, "m", Path())
    assert not [n.op_type for n in graph.nodes if "Sequence" in n.op_type]
    assert_same_outputs(proto, graph, {"x": noise(5, 3, 4)})


def test_an_empty_past_can_be_bound() -> None:
    proto, feeds = written.grouped(0)
    assert import_model(proto, "m", Path()).unbound == ("past_k[2]", "past_v[2]")
    graph = read(proto, feeds)
    assert graph.unbound == ()
    assert (graph.layers[4].k, graph.layers[4].m) == (5, 5)
