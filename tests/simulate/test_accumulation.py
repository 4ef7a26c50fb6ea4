"""Partial sums in fp16: equal to a slow reference that adds chunk after chunk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import NumericsError, SchemeError
from mpsearch.schemes import find_scheme
from mpsearch.simulate.probe import plain_weight, replay
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import allowed
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import attention_net, build, imported, sentences

Array = NDArray[np.float32]
NARROW = replace(find_scheme("fp32"), name="narrow", accumulate="fp16:8")
SPACE = SearchSpace("test", (find_scheme("fp32"), NARROW), "fp32")


def simulator_of(node: onnx.NodeProto, x: Array, folder: Path, **weights: Array) -> Simulator:
    shape = ["n", *x.shape[1:]]
    model = build([node], {"x": shape}, {"y": ["n"] + [None] * (x.ndim - 1)}, weights)
    return Simulator(imported(model, folder), SPACE, make_batches({"x": x}, batch_size=len(x)))


def half(x: NDArray[np.floating]) -> Array:  # type: ignore[type-arg]
    return x.astype(np.float16).astype(np.float32)


def slow_sum(products: list[NDArray[np.float64]], chunk: int) -> Array:
    """Products of one output, in the order in which the kernel walks them."""
    total = np.zeros_like(products[0], dtype=np.float32)
    for first in range(0, len(products), chunk):
        part = half(np.sum(products[first : first + chunk], axis=0))
        total = half(total + part)
    return total


def run(simulator: Simulator, x: Array) -> Array:
    feed = {simulator.graph.inputs[0].name: torch.from_numpy(x)}
    return replay(simulator.calibrated, 0, 1, feed).numpy()


def test_a_gemm_adds_chunk_after_chunk_and_its_bias_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 20)).astype(np.float32)
    w, b = rng.standard_normal((20, 3)).astype(np.float32), np.float32([100, 0.01, -3])
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")
    simulator = simulator_of(node, x, tmp_path, w=w, b=b)
    products = [np.outer(x[:, k], w[k]).astype(np.float64) for k in range(20)]
    want = half(slow_sum(products, 8) + half(b))
    np.testing.assert_allclose(run(simulator, x), want, rtol=0, atol=1e-6)
    assert np.abs(want - (x @ w + b)).max() > 1e-3


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_walks_kernel_positions_then_channels(tmp_path: Path, groups: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 24, 3, 3)).astype(np.float32)
    w = rng.standard_normal((4, 24 // groups, 2, 2)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=groups)
    simulator = simulator_of(node, x, tmp_path, w=w)
    assert torch.equal(plain_weight(simulator.calibrated, 0), torch.from_numpy(w))
    want = np.zeros((2, 4, 2, 2), np.float32)
    size = 24 // groups
    for channel in range(4):
        group = channel // (4 // groups)
        for i in range(2):
            for j in range(2):
                total = np.zeros(2, np.float32)
                for p in range(2):
                    for q in range(2):
                        inputs = x[:, group * size : (group + 1) * size, i + p, j + q]
                        for first in range(0, size, 8):
                            cut = slice(first, first + 8)
                            part = inputs[:, cut].astype(np.float64) @ w[channel, cut, p, q]
                            total = half(total + half(part))
                want[:, channel, i, j] = total
    np.testing.assert_allclose(run(simulator, x), want, rtol=0, atol=4e-3)
    assert (
        np.mean(run(simulator, x) == want) > 0.9
    )  # sums that tie in fp32 may fall to the next code


def test_activations_are_multiplied_so_too(tmp_path: Path) -> None:
    graph = imported(attention_net(), tmp_path)
    simulator = Simulator(graph, SPACE, sentences())
    losses = simulator.losses(np.ones(len(simulator.groups), np.int64))
    assert 0 < losses.mean() < 0.01


def test_sums_that_overflow_are_named(tmp_path: Path) -> None:
    x, w = np.full((1, 16), 300, np.float32), np.full((16, 1), 300, np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="large")
    simulator = simulator_of(node, x, tmp_path, w=w)
    with pytest.raises(NumericsError, match=r"'large': partial sums must fit fp16, but they reach"):
        run(simulator, x)


def test_other_operators_are_refused(tmp_path: Path) -> None:
    x, w = np.ones((1, 4, 5), np.float32), np.ones((4, 2, 3), np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up")
    model = build([node], {"x": ["n", *x.shape[1:]]}, {"y": ["n", 2, 7]}, {"w": w})
    mask, reasons = allowed(SPACE, imported(model, tmp_path))
    assert not mask[0, 1]
    assert "sums in fp16:8 are known for Conv, Gemm, MatMul" in reasons["up", "narrow"]


@pytest.mark.parametrize("text", ["fp16", "fp8:4", "fp16:0", "fp16:x"])
def test_what_an_accumulator_must_be_is_said(text: str) -> None:
    with pytest.raises(SchemeError, match="`accumulate` must be fp32, or fp16 or bf16"):
        replace(NARROW, accumulate=text)
