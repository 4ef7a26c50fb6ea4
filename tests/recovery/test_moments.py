"""What a layer reads, as rows: times the weight's rows they are the layer's output, for every operator that has a Gram."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor

from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.layout import find_layout
from mpsearch.program.compile import compile_graph
from mpsearch.program.program import Step
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.recovery.moments import find_moments, read_rows
from mpsearch.simulate.changes import output_channel_axis
from tests.support.torch_models import build, imported

CASES: dict[str, tuple[str, Sequence[int], Sequence[int], dict[str, Any]]] = {
    "conv": ("Conv", (2, 4, 9, 8), (6, 4, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    "dilated": ("Conv", (2, 4, 9, 8), (6, 4, 3, 3), {"dilations": [2, 1], "auto_pad": "SAME_UPPER"}),
    "grouped": ("Conv", (2, 6, 7, 7), (9, 2, 3, 3), {"group": 3, "pads": [1] * 4}),
    "depthwise": ("Conv", (2, 5, 7, 7), (5, 1, 3, 3), {"group": 5, "auto_pad": "VALID"}),
    "line": ("Conv", (2, 4, 12), (6, 4, 5), {"pads": [2, 2], "strides": [3]}),
    "transposed": (
        "ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 2),
        {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]},
    ),
    "transposed groups": ("ConvTranspose", (2, 6, 5, 4), (6, 2, 3, 3), {"group": 3, "strides": [2, 2]}),
    "transposed dilated": ("ConvTranspose", (2, 4, 6), (4, 3, 3), {"dilations": [2]}),
    "matmul": ("MatMul", (2, 7, 5), (5, 6), {}),
    "stack": ("MatMul", (2, 3, 7, 5), (3, 5, 6), {}),
    "gemm": ("Gemm", (7, 5), (6, 5), {"transB": 1}),
    "turned gemm": ("Gemm", (5, 7), (5, 6), {"transA": 1}),
}  # fmt: skip


def layer_of(folder: Path, case: str) -> tuple[ModelGraph, Step, Tensor, Tensor, Tensor]:
    """Graph, step, input, weight and output of a model of one layer."""
    op, x_shape, w_shape, attributes = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape).astype(np.float32)
    w = rng.standard_normal(w_shape).astype(np.float32)
    node = helper.make_node(op, ["x", "w"], ["y"], "layer", **attributes)
    rank = len(np.matmul(x, w).shape) if op == "MatMul" else len(x_shape)
    model = build([node], {"x": list(x_shape)}, {"y": [None] * rank}, {"w": w})
    graph = imported(model, folder)
    program = compile_graph(graph, torch.device("cpu"))
    values = program.enter({"x": torch.from_numpy(x)})
    run_schedule(make_schedule(program, [program.slots["y"]]), values)
    output = values[program.slots["y"]]
    assert output is not None
    (step,) = (step for step in program.steps if step.layer >= 0)
    return graph, step, torch.from_numpy(x), torch.from_numpy(w), output


@pytest.mark.parametrize("case", CASES)
def test_rows_times_the_weight_are_the_output(tmp_path: Path, case: str) -> None:
    graph, step, x, weight, output = layer_of(tmp_path, case)
    (layer,) = graph.layers
    (gemm,) = layer.gemms
    right = gemm.right
    layout = find_layout(
        tuple(weight.shape),
        reduction_axis=right.reduction_axis,
        channel_axes=right.channel_axes,
        groups=right.groups,
    )
    rows = read_rows(step.node, gemm, x, weight)
    own = layout.to_rows(weight).reshape(len(rows), -1, rows.shape[2])
    found = rows @ own.mT  # [G, n, R / G]
    if case == "stack":  # [stack, samples × rows, columns]
        expected = output.movedim(1, 0).flatten(1, 2)
    else:
        axis = output_channel_axis(layer)
        assert axis is not None
        expected = output.movedim(axis, -1).flatten(0, -2)
        expected = expected.unflatten(-1, (len(rows), -1)).movedim(1, 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_fewer_positions_are_spread_over_the_output(tmp_path: Path) -> None:
    graph, step, x, weight, _ = layer_of(tmp_path, "depthwise")
    gemm = graph.layers[0].gemms[0]
    every = read_rows(step.node, gemm, x, weight)
    few = [read_rows(step.node, gemm, x, weight, most=10, turn=turn) for turn in range(2)]
    assert every.shape[1] == 50
    assert all(rows.shape[1] >= 10 for rows in few)
    whole = {tuple(row) for row in every[0].tolist()}
    assert all(tuple(row) in whole for rows in few for row in rows[0].tolist())


@pytest.mark.parametrize("rows", [2, 40])  # either order of the product is right
def test_moments_add_up_and_centring_takes_off_the_means(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    plan = torch.randn(2, 50, 6, generator=generator) + 3
    fp32 = plan + 0.1 * torch.randn(2, 50, 6, generator=generator)
    weight = torch.randn(2 * rows, 6, generator=generator)
    parts = [
        find_moments(plan[:, part], fp32[:, part], weight, powers=True)
        for part in (slice(20), slice(20, 50))
    ]
    both = parts[0] + parts[1]
    gram, lag = both.centred()
    own = weight.reshape(2, rows, 6).double()
    a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (plan, fp32))
    torch.testing.assert_close(gram, a.mT @ a, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(lag, own @ (b - a).mT @ a, rtol=1e-3, atol=1e-3)
    missed = (fp32 - plan).double() @ own.mT
    torch.testing.assert_close(both.lag_sum, missed.sum(1), rtol=1e-4, atol=1e-4)
    assert both.lag_power == pytest.approx(float(missed.square().sum()), rel=1e-5)
    assert both.power == pytest.approx(float((fp32.double() @ own.mT).square().sum()), rel=1e-5)


def test_wide_gram_matrices_are_whole() -> None:
    rows = torch.randn(1, 30, 700, generator=torch.Generator().manual_seed(0))
    found = find_moments(rows, rows, torch.randn(3, 700))
    torch.testing.assert_close(found.gram, (rows.mT @ rows).double(), rtol=1e-4, atol=1e-4)
    assert not found.lag.any()
