"""A plan on the user's own torch module gives what the simulator gives, and can be taken off again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.errors import PlanError
from mpsearch.plan.changes import bring_changes, with_weights
from mpsearch.plan.match import plan_assignment, plan_schemes
from mpsearch.plan.plan import Decision, Plan, Site
from mpsearch.plan.score import simulate_plan
from mpsearch.schemes import find_scheme
from mpsearch.simulate.changes import Changes, output_channels
from tests.support.changed_plans import change_weight

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")

Made = Callable[[], tuple[nn.Module, list[Tensor]]]

SPACE = mp.SearchSpace(
    "s", tuple(map(find_scheme, ("fp16", "int8", "fp8_dynamic", "nvfp4", "mxfp4a16")))
)


class Pictures(nn.Module):
    """Convolutions with merged normalisations, one of them depthwise, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.depth = nn.Conv2d(8, 8, 3, groups=8, padding="same")
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)
        for norm in self.norms:
            for tensor in (norm.running_var, norm.weight.data):
                tensor.uniform_(0.5, 2)
            norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norms[0](self.stem(x)))
        x = self.up(F.hardswish(self.norms[1](self.depth(x))))
        return self.head(x.mean((2, 3)))


class Words(nn.Module):
    """Tied embedding, torch's own attention and one written out, a recurrence, bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.qkv = nn.Linear(16, 48)
        self.gru = nn.GRU(16, 8, batch_first=True, bidirectional=True)
        self.mix = nn.Parameter(torch.randn(16, 16) * 0.3)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.block(self.table(ids), src_key_padding_mask=mask == 0)
        q, k, v = self.qkv(x).chunk(3, -1)
        p = torch.softmax(torch.einsum("bij,bkj->bik", q, k) / 4, -1)
        heads = F.scaled_dot_product_attention(q[:, None], k[:, None], (p @ v)[:, None])
        y, _ = self.gru(heads[:, 0])
        return self.head(y @ self.mix)


def pictures() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    return Pictures().eval(), [torch.randn(5, 3, 8, 8)]


def words() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    ids = torch.randint(0, 40, (5, 3))  # short: torch's exporter unrolls the recurrence
    return Words().eval(), [ids, (torch.arange(3) < torch.tensor([[3], [1], [2], [3], [2]])).long()]


@cache
def planned(make: Made, seed: int) -> tuple[Plan, Tensor]:
    """Return :func:`make_plan` of a fresh module, which is the same each time."""
    return make_plan(*make(), seed)


def make_plan(module: nn.Module, examples: Sequence[Tensor], seed: int) -> tuple[Plan, Tensor]:
    """Return a random plan, and what the simulator makes of the examples under it."""
    graph = mp.import_torch(module, examples)
    arrays = {v.name: x.numpy() for v, x in zip(graph.inputs, examples, strict=True)}
    simulator = mp.Simulator(graph, SPACE, make_batches(arrays))
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.choice(np.flatnonzero(row)) for row in simulator.allowed])
    plan = mp.make_plan(mp.Point(tuple(map(int, chosen)), {}), simulator)
    return plan, next(iter(simulator.run(arrays, chosen).values()))


@pytest.mark.parametrize("make", [pictures, words])
def test_a_module_with_a_plan_gives_what_the_simulator_gives(make: Made) -> None:
    module, examples = make()
    before = module(*examples)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plan, wanted = planned(make, 1)
    assert mp.apply_plan(plan, module) is module
    for _ in range(2):
        torch.testing.assert_close(module(*examples), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, wanted, atol=1e-3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    module.mpsearch_plan.remove()
    assert torch.equal(module(*examples), before)
    assert "forward" not in module.__dict__


def test_gradients_pass_straight_through_a_plan() -> None:
    module, (x,) = pictures()
    plan, _ = planned(pictures, 1)
    mp.apply_plan(plan, module)
    x = x.clone().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_second_plan_takes_the_place_of_the_first() -> None:
    module, examples = pictures()
    plan, _ = planned(pictures, 1)
    other, wanted = planned(pictures, 2)
    mp.apply_plan(plan, module)
    mp.apply_plan(other, module)
    torch.testing.assert_close(module(*examples), wanted, rtol=1e-4, atol=1e-4)


def test_a_parameter_that_the_module_lacks_is_named() -> None:
    module, _ = pictures()
    plan, _ = planned(pictures, 1)
    lost = Decision(Site("node_linear", ("body.fc.weight",)), "int8")
    with pytest.raises(PlanError, match=r"'body.fc.weight' \(of 'node_linear'\).*Pictures lacks"):
        mp.apply_plan(replace(plan, decisions=(*plan.decisions, lost)), module)


def test_another_module_is_refused() -> None:
    module, _ = pictures()
    plan, _ = planned(pictures, 1)
    shorter = replace(plan, decisions=plan.decisions[:-1], structure_digest="0" * 64)
    with pytest.raises(PlanError, match="decides 3 layers, but the module has 4"):
        mp.apply_plan(shorter, module)


def test_a_layer_that_does_not_run_is_named() -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.both = nn.Linear(4, 4), nn.Linear(4, 4), True

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x) if self.both else self.a(x)

    module, x = Either(), torch.randn(4, 4)
    plan, _ = make_plan(module, [x], seed=0)
    mp.apply_plan(plan, module)
    module.both = False
    with pytest.raises(PlanError, match=r"'b' \(node_linear.*\) was not run"):
        module(x)


def test_a_module_takes_the_recovered_weights_that_the_plan_brings() -> None:
    module, (x,) = pictures()
    graph = mp.import_torch(module, [x])
    recovered = replace(find_scheme("fp8_2of4"), recovery="obs")
    arrays = {graph.inputs[0].name: x.numpy()}
    space = mp.SearchSpace("s", (find_scheme("fp16"), recovered))
    simulator = mp.Simulator(graph, space, make_batches(arrays), device="cpu")
    chosen = simulator.allowed[:, 1].astype(np.int64)
    plan = mp.make_plan(mp.Point(tuple(map(int, chosen)), {}), simulator)
    assert plan.weights is not None
    wanted = next(iter(simulator.run(arrays, chosen).values()))
    mp.apply_plan(plan, module)
    torch.testing.assert_close(module(x), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(PlanError, match="does not bring them"):
        mp.apply_plan(replace(plan, weights=None), module)


@pytest.mark.parametrize("make", [pictures, words])
def test_a_module_takes_all_that_a_plan_changes(make: Made) -> None:
    module, examples = make()
    before = module(*examples)
    plan, plain = planned(make, 1)
    graph = mp.import_torch(module, examples)
    layers = {layer.name for layer in graph.layers}
    schemes = plan_schemes(plan, graph)
    weights = {
        (i, 0): change_weight(graph, i, 0, schemes[i])
        for i, layer in enumerate(graph.layers)
        if layer.has_weight and i % 2
    }
    biases = {
        i: torch.randn(n) * 0.2
        for i in range(len(graph.layers))
        if (n := output_channels(graph, i)) is not None
    }
    gains = [
        name
        for node in graph.nodes
        if node.op_type == "LayerNormalization" and node.name not in layers
        for name in node.inputs[1:]
    ]
    constants = {name: np.asarray(graph.constants[name]) + np.float32(0.1) for name in gains}
    assert bool(constants) == (make is words)
    changes = Changes(weights, biases, constants)
    arrays = {v.name: x.numpy() for v, x in zip(graph.inputs, examples, strict=True)}
    simulated = simulate_plan(bring_changes(plan, graph, changes), graph, make_batches(arrays))
    wanted = simulated.run(arrays, plan_assignment(plan, graph, simulated.space))
    mp.apply_plan(bring_changes(plan, graph, changes), module, examples)
    for _ in range(2):
        found = module(*examples)
        torch.testing.assert_close(found, next(iter(wanted.values())), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)
    module.mpsearch_plan.remove()
    assert torch.equal(module(*examples), before)


def test_a_trainable_module_starts_from_what_a_plan_changes_and_is_read_back_whole() -> None:
    module, examples = pictures()
    plan, _ = planned(pictures, 1)
    graph = mp.import_torch(module, examples)
    schemes, layers = plan_schemes(plan, graph), range(len(graph.layers))
    weights = {(i, 0): change_weight(graph, i, 0, schemes[i]) for i in layers}
    sizes = {i: output_channels(graph, i) or 0 for i in layers}
    changes = Changes(weights, {i: torch.randn(n) * 0.2 for i, n in sizes.items()})
    made = bring_changes(plan, graph, changes)
    mp.apply_plan(made, module, examples)
    start = module(*examples).detach()
    mp.apply_plan(made, module, examples, trainable=True)
    torch.testing.assert_close(module(*examples).detach(), start)
    assert mp.read_trained(module) == made.weights
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    module(*examples).square().mean().backward()
    optimizer.step()
    trained = with_weights(made, mp.read_trained(module))
    arrays = {v.name: x.numpy() for v, x in zip(graph.inputs, examples, strict=True)}
    simulated = simulate_plan(trained, graph, make_batches(arrays))
    (found,) = simulated.run(arrays, plan_assignment(trained, graph, simulated.space)).values()
    torch.testing.assert_close(module(*examples).detach(), found, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, start, atol=1e-3)
