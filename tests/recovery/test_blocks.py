"""Blocks end where one value carries everything; learning them lowers the loss, transforms keep the function."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.recovery.blocks import find_blocks
from mpsearch.recovery.recover import recover
from mpsearch.schemes import find_scheme
from mpsearch.simulate.reference import head_slots
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.recovery.test_equivalent import normal, normed_net
from tests.support.graph_models import save
from tests.support.torch_models import attention_net, build, sentences

SPACE = SearchSpace("test", tuple(map(find_scheme, ("fp16", "int8", "mxfp4"))), "fp16")
INT8, MXFP4 = 1, 2


def residual_net(folder: Path) -> Simulator:
    """Two residual blocks of two products each, then a head."""
    nodes, value = [], "x"
    weights = {"wh": normal(9, 16, 6) / 4}
    for block in range(2):
        for at in range(2):
            weights[f"w{block}{at}"] = normal(10 + 2 * block + at, 16, 16) / 4
        nodes += [
            helper.make_node("MatMul", [value, f"w{block}0"], [f"h{block}"], name=f"in{block}"),
            helper.make_node("Relu", [f"h{block}"], [f"r{block}"], name=f"relu{block}"),
            helper.make_node(
                "MatMul", [f"r{block}", f"w{block}1"], [f"o{block}"], name=f"out{block}"
            ),
            helper.make_node("Add", [f"o{block}", value], [f"s{block}"], name=f"sum{block}"),
        ]
        value = f"s{block}"
    nodes.append(helper.make_node("MatMul", [value, "wh"], ["y"], name="head"))
    model = build(nodes, {"x": ["n", 16]}, {"y": ["n", 6]}, weights)
    data = make_batches({"x": normal(20, 256, 16)}, batch_size=32)
    return Simulator(mp.import_onnx(save(model, folder)), SPACE, data)


def test_blocks_end_behind_residual_sums(tmp_path: Path) -> None:
    simulator = residual_net(tmp_path)
    blocks = find_blocks(
        simulator.graph, simulator.program, head_slots(simulator.program, simulator.heads)
    )
    names = [layer.name for layer in simulator.graph.layers]
    assert [(b.start, b.end, [names[i] for i in b.layers]) for b in blocks] == [
        ("", "s0", ["in0", "out0"]),
        ("s0", "s1", ["in1", "out1"]),
        ("s1", "y", ["head"]),
    ]
    assert sorted(i for b in blocks for i in b.layers) == list(range(len(names)))


def test_attention_is_one_block(tmp_path: Path) -> None:
    simulator = Simulator(mp.import_onnx(save(attention_net(), tmp_path)), SPACE, sentences(32))
    blocks = find_blocks(
        simulator.graph, simulator.program, head_slots(simulator.program, simulator.heads)
    )
    names = [layer.name for layer in simulator.graph.layers]
    assert {"q", "k", "v", "scores", "mix", "out"} <= {names[i] for i in blocks[0].layers}
    assert [names[i] for i in blocks[-1].layers] == ["classify"]


def test_learned_blocks_lose_less(tmp_path: Path) -> None:
    simulator = residual_net(tmp_path)
    plan = np.full(len(simulator.groups), MXFP4)
    found = recover(simulator, plan, ("blocks",))
    assert found.methods == ("blocks",)
    assert found.before is not None
    assert found.after is not None
    assert found.after.mean < 0.8 * found.before.mean
    fresh = simulator.on_data(make_batches({"x": normal(21, 512, 16)}, batch_size=64))
    changed = fresh.change(found.recovered.changes)
    assert changed.loss(plan).mean < 0.9 * fresh.loss(plan).mean


@pytest.mark.parametrize("methods", [("smooth",), ("smooth", "gptq", "bias")])
def test_transforms_help_on_data_that_took_no_part(
    tmp_path: Path, methods: tuple[str, ...]
) -> None:
    model, data = normed_net()
    simulator = Simulator(mp.import_onnx(save(model, tmp_path)), SPACE, data)
    plan = np.full(len(simulator.groups), INT8)
    found = recover(simulator, plan, methods)
    assert found.methods == methods
    assert found.recovered.changes.constants
    assert found.recovered.changes.ranges
    fresh = simulator.on_data(make_batches({"x": normal(30, 64, 5, 16)}, batch_size=32))
    assert fresh.change(found.recovered.changes).loss(plan).mean < 0.5 * fresh.loss(plan).mean
