"""Prefix reuse: a changed layer re-runs what depends on it, and nothing changes but the time."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from mpsearch.data.batches import Batches, make_batches
from mpsearch.graph.model import ModelGraph
from mpsearch.program.compile import compile_graph
from mpsearch.program.schedule import make_schedule
from mpsearch.schemes import find_scheme
from mpsearch.simulate.prefix_cache import choose_slots, schedule_cost, step_costs, step_flops
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import attention_net, build, conv_net, images, imported, sentences

SPACE = SearchSpace("test", tuple(map(find_scheme, ("fp16", "fp8"))))


def residual_net(blocks: int = 5) -> onnx.ModelProto:
    """Blocks x + W₂ relu(W₁ x) of growing width inside, then classes."""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[np.generic]] = {}
    nodes, x = [], "x"
    for i in range(blocks):
        inner = 16 * (i + 1)
        weights[f"u{i}"] = (rng.standard_normal((16, inner)) / 4).astype(np.float32)
        weights[f"d{i}"] = (rng.standard_normal((inner, 16)) / inner**0.5).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", [x, f"u{i}"], [f"a{i}"], name=f"up{i}"),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"], name=f"relu{i}"),
            helper.make_node("MatMul", [f"r{i}", f"d{i}"], [f"m{i}"], name=f"down{i}"),
            helper.make_node("Add", [x, f"m{i}"], [f"y{i}"], name=f"add{i}"),
        ]
        x = f"y{i}"
    weights["c"] = rng.standard_normal((16, 3)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [x, "c"], ["z"], name="classes"))
    nodes.append(helper.make_node("Softmax", ["z"], ["p"], name="softmax", axis=-1))
    return build(nodes, {"x": ["n", 16]}, {"p": ["n", 3]}, weights)


def vectors() -> Batches:
    x = np.random.default_rng(1).standard_normal((10, 16)).astype(np.float32)
    return make_batches({"x": x}, batch_size=4)


def sweep(simulator: Simulator) -> tuple[NDArray[np.float64], float]:
    """Losses of the base and of each single change, and the FLOPs that they took."""
    n_groups = len(simulator.groups)
    plans = np.vstack([np.zeros((1, n_groups), np.int64), np.eye(n_groups, dtype=np.int64)])
    losses = np.array([simulator.losses(plan) for plan in plans])
    return losses, simulator.executed_flops


def mean_suffix(graph: ModelGraph) -> float:
    """Mean share of FLOPs from each group's first layer on, in program order."""
    flops = [layer.flops for layer in graph.layers]
    shares = [sum(flops[group.layers[0] :]) / sum(flops) for group in graph.groups]
    return float(np.mean(shares))


@pytest.mark.parametrize("name", ["residual", "convolutions", "attention"])
def test_a_sweep_re_executes_at_most_the_mean_suffix_and_a_tenth(name: str, tmp_path: Path) -> None:
    model, data = {
        "residual": (residual_net, vectors),
        "convolutions": (conv_net, images),
        "attention": (attention_net, sentences),
    }[name]
    graph = imported(model(), tmp_path)
    kept, spent = sweep(Simulator(graph, SPACE, data()))
    fresh, full = sweep(Simulator(graph, SPACE, data(), max_memory=0))
    assert np.array_equal(kept, fresh)
    n_plans = 1 + len(graph.groups)
    assert full == n_plans * data().arrays[graph.inputs[0].name].shape[0] * sum(
        layer.flops for layer in graph.layers
    )
    reuse = (spent - full / n_plans) / (full - full / n_plans)
    assert reuse <= mean_suffix(graph) + 0.1
    assert spent < full


@pytest.mark.parametrize("room", [1, 3, 6])
def test_a_few_values_are_kept_where_all_do_not_fit(room: int, tmp_path: Path) -> None:
    graph = imported(residual_net(), tmp_path)
    program = compile_graph(graph)
    schedule = make_schedule(program, [program.slots["z"]])
    sizes = {slot: 64 for step in program.steps for slot in step.outputs}
    costs = step_costs(program, step_flops(program, graph), sizes)
    kept = choose_slots(program, schedule, sizes, costs, 64 * room)
    assert 0 < len(kept) <= room
    layers = [step.index for step in program.steps if step.layer >= 0]
    again = [
        schedule_cost(
            make_schedule(program, [program.slots["z"]], changed=[layer], stored=kept), costs
        )
        for layer in layers
    ]
    assert sum(again) < 0.9 * len(layers) * schedule_cost(schedule, costs)


def test_small_steps_from_any_plan_re_execute_only_what_they_change(tmp_path: Path) -> None:
    graph = imported(residual_net(), tmp_path)
    found = []
    for limit in (None, 0):
        rng = np.random.default_rng(2)
        simulator = Simulator(graph, SPACE, vectors(), max_memory=limit)
        plan = np.ones(len(graph.groups), np.int64)
        losses = [simulator.losses(plan)]
        for _ in range(12):
            step = plan.copy()
            group = rng.integers(len(plan))
            step[group] = 1 - step[group]
            losses.append(simulator.losses(step))
            if rng.random() < 0.4:
                plan = step
        found.append((np.array(losses), simulator.executed_flops))
    (kept, spent), (fresh, full) = found
    assert np.array_equal(kept, fresh)
    assert spent < 0.9 * full
