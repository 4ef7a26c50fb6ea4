"""The sequential pass by brute force: each layer recovered on what the plan before it gives, towards what fp32 gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor

from mpsearch.data.batches import make_batches
from mpsearch.deadline import deadline_in
from mpsearch.errors import SchemeError, UnknownNameError
from mpsearch.graph.model import Operand
from mpsearch.numerics.quantize import fake_quantize, quantize_weight
from mpsearch.recovery.gptq import round_in_gram
from mpsearch.recovery.lockstep import Pass, recover_in_lockstep
from mpsearch.recovery.recover import FewSamplesWarning, recover, split
from mpsearch.recovery.task import parse_methods
from mpsearch.schemes import find_scheme
from mpsearch.simulate.loss_store import MemoryLosses
from mpsearch.simulate.memory_budget import MemoryWarning
from mpsearch.simulate.probe import capture
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import attention_net, build, conv_net, images, imported, sentences

NAMES = ("fp32", "nvfp4", "nvfp4a16", "fp8", "int8", "fp8_2of4")
SPACE = SearchSpace("test", tuple(map(find_scheme, NAMES)), "fp32")


def two_layers(folder: Path, width: int = 32, n: int = 40, seed: int = 0) -> Simulator:
    """Linear, Relu, linear, on correlated inputs that are no zero on average."""
    rng = np.random.default_rng(seed)
    weights = {
        name: (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        for name in ("w1", "w2")
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "second"),
    ]
    model = build(nodes, {"x": ["n", width]}, {"y": ["n", width]}, weights)
    mixing = rng.standard_normal((width // 2, width))
    x = rng.standard_normal((n, width // 2)) @ mixing + 0.3 * rng.standard_normal((n, width)) + 0.5
    batches = make_batches({"x": x.astype(np.float32)}, batch_size=8)
    return Simulator(imported(model, folder), SPACE, batches)


def uniform(simulator: Simulator, name: str) -> np.ndarray:
    wanted = NAMES.index(name)
    return np.array([wanted if row[wanted] else NAMES.index("fp8") for row in simulator.allowed])


def heads(simulator: Simulator) -> list[int]:
    return [simulator.program.slots[head.value] for head in simulator.heads]


def feeds(simulator: Simulator) -> list[dict[str, Tensor]]:
    return [simulator.feed_run(i) for i in range(simulator.n_runs)]


def test_the_second_layer_is_recovered_on_what_the_first_one_has_become(tmp_path: Path) -> None:
    """Without judges: rounded towards the model's own weights, in the Gram matrix of the plan's centred inputs."""
    simulator = two_layers(tmp_path)
    scheme = find_scheme("nvfp4a16")
    schemes = [NAMES.index("nvfp4a16")] * 2
    changes, _ = recover_in_lockstep(
        Pass(simulator.calibrated, schemes, heads(simulator), feeds(simulator))
    )
    x = torch.cat([feed["x"] for feed in feeds(simulator)])
    w1, w2 = (torch.from_numpy(np.array(simulator.graph.constants[n])) for n in ("w1", "w2"))

    def by_hand(fp32: Tensor, plan: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        read = fake_quantize(plan, "fp16").double()
        centred = read - read.mean(0)
        stored = round_in_gram(
            weight, scheme.weight, centred.T @ centred, Operand("w", "w", 1, 0, (1,))
        ).dequantize()
        bias = (fp32.double() @ weight.double() - read @ stored.double()).mean(0)
        return stored, bias.float()

    stored, bias = by_hand(x, x, w1)
    torch.testing.assert_close(changes.weights[0, 0].dequantize(), stored)
    torch.testing.assert_close(changes.biases[0], bias, rtol=1e-4, atol=1e-5)
    plan = torch.relu(fake_quantize(x, "fp16") @ stored + bias)
    stored, bias = by_hand(torch.relu(x @ w1), plan, w2)
    torch.testing.assert_close(changes.weights[1, 0].dequantize(), stored)
    torch.testing.assert_close(changes.biases[1], bias, rtol=1e-3, atol=1e-4)


def test_errors_are_those_of_the_layers_outputs_where_they_run(tmp_path: Path) -> None:
    """What a pass says of a layer on the judging data is what running both models there gives."""
    simulator = two_layers(tmp_path)
    runs = feeds(simulator)
    schemes = [NAMES.index("nvfp4")] * 2
    changes, layers = recover_in_lockstep(
        Pass(simulator.calibrated, schemes, heads(simulator), runs[:3], runs[3:])
    )
    changed = simulator.change(changes)
    assignment = np.array(schemes)
    for layer, found in layers.items():
        assert found.after < found.before
        output = simulator.graph.layers[layer].output
        got = torch.cat(
            [capture(changed.calibrated, [layer], run, assignment)[output] for run in runs[3:]]
        )
        want = torch.cat([capture(simulator.calibrated, [layer], run)[output] for run in runs[3:]])
        error = float((got - want).square().sum() / want.square().sum())
        assert error == pytest.approx(found.after, rel=2e-2)


def test_an_asymmetric_target_makes_up_for_the_layers_before(tmp_path: Path) -> None:
    """The first layer in four bits, the second in fp32: only a moved target can lower the error."""
    simulator = two_layers(tmp_path, n=400)
    runs = feeds(simulator)
    schemes = [NAMES.index("nvfp4"), NAMES.index("fp32")]
    _, layers = recover_in_lockstep(
        Pass(simulator.calibrated, schemes, heads(simulator), runs[:30], runs[30:])
    )
    assert layers[1].choice.step > 0.2
    assert layers[1].after < 0.98 * layers[1].before


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4a16", "fp8_2of4"])
@pytest.mark.parametrize("kind", ["conv", "attention"])
def test_a_plan_loses_less_on_data_that_took_no_part(tmp_path: Path, name: str, kind: str) -> None:
    model, many = (conv_net(), images) if kind == "conv" else (attention_net(width=32), sentences)
    data = images(64, seed=5) if kind == "conv" else sentences(96)
    simulator = Simulator(imported(model, tmp_path), SPACE, data)
    assignment = uniform(simulator, name)
    result = recover(simulator, assignment)
    unseen = simulator.on_data(images(100, seed=6)) if many is images else simulator
    before = unseen.loss(assignment).mean
    after = unseen.change(result.recovered.changes).loss(assignment).mean
    assert after < 0.8 * before
    assert result.methods in result.tried
    assert result.before is not None
    assert result.after is not None
    assert result.after.mean <= result.before.mean


@pytest.mark.parametrize("name", ["nvfp4", "fp8", "int8", "fp8_2of4"])
def test_few_samples_of_wide_layers_make_nothing_worse(tmp_path: Path, name: str) -> None:
    simulator = two_layers(tmp_path, width=512, n=416, seed=3)
    few = simulator.on_data(simulator.batches.rows(0, 16))
    unseen = simulator.on_data(simulator.batches.rows(16, 400))
    assignment = uniform(simulator, name)
    result = recover(few, assignment)
    before = unseen.loss(assignment).mean
    assert unseen.change(result.recovered.changes).loss(assignment).mean <= before * 1.001


def test_one_sample_is_named_and_changes_nothing(tmp_path: Path) -> None:
    simulator = two_layers(tmp_path)
    one = simulator.on_data(simulator.batches.take(1))
    with pytest.warns(FewSamplesWarning, match="at least 2 samples that run apart.*got 1"):
        result = recover(one, uniform(simulator, "nvfp4"))
    assert not result.recovered.changes
    assert result.methods == ()


def test_channels_without_any_signal_stay_finite(tmp_path: Path) -> None:
    simulator = two_layers(tmp_path)
    dead = {"x": np.array(simulator.batches.arrays["x"])}
    dead["x"][:, :20] = 0
    silent = simulator.on_data(make_batches(dead, batch_size=8))
    result = recover(silent, uniform(simulator, "nvfp4"))
    assert all(
        bool(torch.isfinite(w.dequantize()).all())
        for w in result.recovered.changes.weights.values()
    )
    assert result.after is not None
    assert result.before is not None
    assert result.after.mean <= result.before.mean


def test_padding_takes_no_part(tmp_path: Path) -> None:
    """Ids of masked tokens may be anything: what is recovered stays."""
    simulator = Simulator(imported(attention_net(), tmp_path), SPACE, sentences(24))
    arrays = {name: np.array(array) for name, array in simulator.batches.arrays.items()}
    arrays["ids"][arrays["mask"] == 0] = 7
    other = simulator.on_data(make_batches(arrays, batch_size=4))
    schemes = [NAMES.index("nvfp4a16")] * len(simulator.graph.layers)

    def found(of: Simulator) -> dict[int, Tensor]:
        task = Pass(simulator.calibrated, schemes, heads(of), feeds(of), mask="mask")
        changes, _ = recover_in_lockstep(task)
        return {layer: w.dequantize() for (layer, _), w in changes.weights.items()}

    first, second = found(simulator), found(other)
    for layer in (0, 1, 2):  # what reads tokens themselves
        torch.testing.assert_close(first[layer], second[layer])


def test_samples_are_split_once() -> None:
    made, judge = split(250, 0) or ([], [])
    assert sorted([*made, *judge]) == list(range(250))
    assert len(judge) == 62
    assert split(250, 0) == (made, judge)
    assert split(250, 1) != (made, judge)
    assert split(2, 0) is not None
    assert split(1, 0) is None


def test_learned_rounding_starts_from_what_second_order_rounding_gives(tmp_path: Path) -> None:
    simulator = two_layers(tmp_path, n=200)
    runs = feeds(simulator)
    schemes = [NAMES.index("nvfp4a16")] * 2
    task = Pass(simulator.calibrated, schemes, heads(simulator), runs[:18], runs[18:], bias=False)
    gptq, _ = recover_in_lockstep(task)
    learned, layers = recover_in_lockstep(replace(task, rounding="round"))
    late, _ = recover_in_lockstep(replace(task, rounding="round", deadline=deadline_in(0.0)))
    first, second = (found.weights[0, 0] for found in (gptq, learned))
    assert second.scales is not None
    assert first.scales is not None
    assert torch.equal(first.scales, second.scales)
    x = torch.cat([feed["x"] for feed in runs[:18]])
    errors = [
        float(((q.dequantize() - simulator.calibrated.weights.plain(0)).T @ x.T).square().sum())
        for q in (second, first)
    ]
    assert errors[0] <= errors[1]
    assert all(found.after < found.before for found in layers.values())
    assert not late.weights


def test_methods_are_read_by_name() -> None:
    assert parse_methods("bias,gptq") == ("gptq", "bias")
    assert parse_methods("none") == ()
    with pytest.raises(UnknownNameError, match="method of recovery must be one of gptq"):
        parse_methods("magic")
    with pytest.raises(SchemeError, match="named once"):
        parse_methods("bias,bias")


def test_nothing_to_round_is_no_harm() -> None:
    weight = torch.zeros(0, 16)
    found = round_in_gram(
        weight, find_scheme("nvfp4").weight, torch.eye(16), Operand("w", "w", 1, 1, (0,))
    )
    assert (
        found.codes.shape
        == quantize_weight(
            weight, find_scheme("nvfp4").weight, reduction_axis=1, channel_axes=(0,)
        ).codes.shape
    )


def test_layers_that_share_a_weight_keep_one(tmp_path: Path) -> None:
    """Its Gram matrix is the sum of theirs: what stands behind the first one counts too."""
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((32, 32)) / 6).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "second"),
    ]
    graph = imported(build(nodes, {"x": ["n", 32]}, {"y": ["n", 32]}, {"w": w}), tmp_path)
    x = rng.standard_normal((200, 32)) @ rng.standard_normal((32, 32)) / 4 + 0.3
    simulator = Simulator(graph, SPACE, make_batches({"x": x.astype(np.float32)}, batch_size=20))
    runs = feeds(simulator)
    schemes = [NAMES.index("nvfp4a16")] * 2
    changes, layers = recover_in_lockstep(
        Pass(simulator.calibrated, schemes, heads(simulator), runs[:7], runs[7:])
    )
    first, second = (changes.weights[layer, 0].dequantize() for layer in (0, 1))
    assert torch.equal(first, second)
    assert all(found.after < found.before for found in layers.values())
    alone, _ = recover_in_lockstep(
        Pass(simulator.calibrated, schemes, [simulator.program.slots["a"]], runs[:7], runs[7:])
    )
    assert not torch.equal(alone.weights[0, 0].dequantize(), first)


def test_samples_that_do_not_fit_in_memory_are_left_out_and_said(tmp_path: Path) -> None:
    simulator = two_layers(tmp_path, n=200)
    assignment = uniform(simulator, "nvfp4")
    small = replace(simulator.calibrated, max_memory=1)
    tight = Simulator.of(small, simulator.reference, 0, MemoryLosses())
    with pytest.warns(MemoryWarning, match="it goes on with 0% of the samples"):
        result = recover(tight, assignment, ("bias",))
    assert result.after is not None


def test_sparse_layers_alone_are_pruned_in_the_gram_matrix(tmp_path: Path) -> None:
    simulator = two_layers(tmp_path, n=200)
    runs = feeds(simulator)
    schemes = [NAMES.index("fp8"), NAMES.index("fp8_2of4")]
    task = Pass(simulator.calibrated, schemes, heads(simulator), runs[:18], runs[18:])
    changes, layers = recover_in_lockstep(replace(task, rounding="obs", bias=False))
    assert list(changes.weights) == [(1, 0)]
    assert layers[1].after < 0.6 * layers[1].before


def test_what_a_recurrent_layer_reads_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": (rng.standard_normal((2, 64, 32)) / 4).astype(np.float32),
        "r": (rng.standard_normal((2, 64, 16)) / 4).astype(np.float32),
    }
    node = helper.make_node(
        "LSTM", ["x", "w", "r"], ["y"], "lstm", hidden_size=16, direction="bidirectional"
    )
    turn = helper.make_node("Transpose", ["s"], ["x"], "turn", perm=[1, 0, 2])
    back = helper.make_node("Transpose", ["y"], ["z"], "back", perm=[2, 0, 1, 3])
    model = build([turn, node, back], {"s": ["n", 9, 32]}, {"z": ["n", 9, 2, 16]}, weights)
    x = rng.standard_normal((60, 9, 32)) @ rng.standard_normal((32, 32)) / 4
    data = make_batches({"s": x.astype(np.float32)}, batch_size=10)
    simulator = Simulator(imported(model, tmp_path), SPACE, data)
    assignment = uniform(simulator, "nvfp4a16")
    result = recover(simulator, assignment, ("gptq",))
    assert list(result.recovered.changes.weights) == [(0, 0)]
    assert result.left == ("lstm",)  # its state's weights are rounded plainly
    assert result.after is not None
    assert result.before is not None
    assert result.after.mean < result.before.mean


def test_outliers_are_smoothed_where_that_helps(tmp_path: Path) -> None:
    """A norm whose gains single out channels, and linear layers in int8 behind it."""
    rng = np.random.default_rng(0)
    gain = np.where(np.arange(32) % 11 == 5, 40.0, 1.0).astype(np.float32)
    weights = {
        "gain": gain,
        "shift": np.zeros(32, np.float32),
        "w1": (rng.standard_normal((32, 64)) / 6 / gain[:, None]).astype(np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w1"], ["y"], "up"),
    ]
    model = build(nodes, {"x": ["b", 32]}, {"y": ["b", 64]}, weights)
    x = rng.standard_normal((200, 32)) @ rng.standard_normal((32, 32)) / 4
    data = make_batches({"x": x.astype(np.float32)}, batch_size=20)
    simulator = Simulator(imported(model, tmp_path), SPACE, data)
    result = recover(simulator, uniform(simulator, "int8"))
    assert result.methods == ("smooth", "gptq", "bias")
    assert result.tried[result.methods].mean < 0.5 * result.tried["gptq", "bias"].mean
