"""A plan whose module trains: gradients of the surrogate reach every parameter, and what becomes of them is read back."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.errors import PlanError
from mpsearch.numerics.quantize import quantize_activation
from mpsearch.numerics.sparsity import choose_mask
from mpsearch.plan.changes import changes_of, with_weights
from mpsearch.schemes import Scheme, find_scheme
from mpsearch.simulate.probe import plain_weight, simulated_weight
from tests.plan.torch_module.test_apply import SPACE, Made, make_plan, pictures, planned, words

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("make", [pictures, words])
def test_a_trainable_module_gives_what_the_simulator_gives(make: Made) -> None:
    module, examples = make()
    plan, wanted = planned(make, 1)
    mp.apply_plan(plan, module, trainable=True)
    for _ in range(2):
        torch.testing.assert_close(module(*examples), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [pictures, words])
def test_every_parameter_gets_a_gradient_and_a_step_lowers_the_loss(make: Made) -> None:
    module, examples = make()
    plan, wanted = planned(make, 1)
    mp.apply_plan(plan, module, trainable=True)
    goal = wanted + torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        return (module(*examples) - goal).square().mean()

    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    before = loss()
    before.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
    for _ in range(10):
        optimizer.step()
        optimizer.zero_grad()
        loss().backward()
    assert float(loss()) < 0.99 * float(before)


class Small(nn.Module):
    """Two linear layers and a convolution whose normalisation is merged into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.fc = nn.Linear(48, 5)
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]  # a buffer
        self.norm.weight.data.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.norm(self.conv(x))).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("names", [("int8", "int8"), ("nvfp4", "fp8"), ("fp8_2of4", "int8_2of4")])
def test_gradients_are_those_of_the_surrogate_by_finite_differences(names: tuple[str, str]) -> None:
    """The surrogate adds to each tensor what rounding added to it, held fixed; what is cut off is constant."""
    torch.manual_seed(0)
    module, x = Small().eval(), torch.randn(7, 4, 8)
    first, second = map(find_scheme, names)
    space = mp.SearchSpace("s", (find_scheme("fp32"), *dict.fromkeys((first, second))), base="fp32")
    graph = mp.import_torch(module, x)
    simulator = mp.Simulator(graph, space, make_batches({graph.inputs[0].name: x.numpy()}))
    chosen = tuple(space.names.index(name) for name in names)
    plan = mp.make_plan(mp.Point(chosen, {}), simulator)
    mp.apply_plan(plan, module, x, trainable=True)
    coefficients = torch.randn(7, 5)
    (module(x) * coefficients).sum().backward()

    def rounded(h: Tensor, layer: int, scheme: Scheme, axis: int) -> Tensor:
        value, spec = graph.layers[layer].gemms[0].left.value, scheme.activation
        known = simulator.ranges.get((value, spec))
        return quantize_activation(h.float(), spec, reduction_axis=axis, range=known).double()

    own = {name: p.detach().double() for name, p in module.named_parameters()}
    norm = module.norm
    weights = [
        simulated_weight(simulator.calibrated, layer, scheme).double()
        for layer, scheme in enumerate(chosen)
    ]
    turned = weights[1].shape != own["fc.weight"].shape
    kept = [
        choose_mask(plain_weight(simulator.calibrated, layer), "2:4", axis=axis)
        if scheme.sparsity
        else torch.ones(())
        for layer, (scheme, axis) in enumerate([(first, 1), (second, 0 if turned else 1)])
    ]

    def convolution(p: dict[str, Tensor], x: Tensor, more: Tensor | float) -> Tensor:
        factor = p["norm.weight"] / (norm.running_var.double() + norm.eps).sqrt()
        w = p["conv.weight"] * factor[:, None, None] * kept[0] + more
        b = (p["conv.bias"] - norm.running_mean.double()) * factor + p["norm.bias"]
        return torch.tanh(torch.conv1d(x, w, b, padding=1)).flatten(1)

    def last(p: dict[str, Tensor]) -> Tensor:
        w = p["fc.weight"].T if turned else p["fc.weight"]
        return w * kept[1]

    factor = own["norm.weight"] / (norm.running_var.double() + norm.eps).sqrt()
    masked = own["conv.weight"] * factor[:, None, None] * kept[0]
    by_rounding = weights[0] - masked, weights[1] - last(own)
    read = rounded(x, 0, first, 1)
    hidden = convolution(own, read, by_rounding[0])
    of_hidden = rounded(hidden, 1, second, -1) - hidden
    known = simulator.ranges.get((graph.layers[1].gemms[0].left.value, second.activation))
    limit = 127.5 * known.scale if known is not None and "int8" in names[1] else torch.inf
    inside = hidden.abs() < limit

    def surrogate(p: dict[str, Tensor]) -> float:
        h = torch.where(inside, convolution(p, read, by_rounding[0]), hidden) + of_hidden
        w = last(p) + by_rounding[1]
        return float(((h @ (w if turned else w.T) + p["fc.bias"]) * coefficients).sum())

    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        for index in torch.topk(parameter.grad.flatten().abs(), 3).indices.tolist():
            up, down = ({n: t.clone() for n, t in own.items()} for _ in range(2))
            up[name].view(-1)[index] += 1e-5
            down[name].view(-1)[index] -= 1e-5
            slope = (surrogate(up) - surrogate(down)) / 2e-5
            assert float(parameter.grad.flatten()[index]) == pytest.approx(slope, rel=2e-3), name


def test_what_was_trained_is_read_back() -> None:
    module, (x,) = pictures()
    plan, _ = planned(pictures, 1)
    mp.apply_plan(plan, module, trainable=True)
    applied = module.mpsearch_plan
    assert not applied.trained()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    module(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        wanted = module(x)
    changes = applied.trained()
    assert sorted(changes.weights) == [(i, 0) for i in range(4)]
    assert sorted(changes.biases) == [0, 1, 2, 3]
    fresh, _ = pictures()
    graph = mp.import_torch(fresh, [x])
    arrays = {graph.inputs[0].name: x.numpy()}
    simulator = mp.Simulator(graph, SPACE, make_batches(arrays))
    trained = with_weights(plan, mp.read_trained(module))
    sites = [decision.site for decision in plan.decisions]
    schemes = [plan.schemes[decision.scheme] for decision in plan.decisions]
    held = changes_of(trained, graph, schemes, sites)
    assert held.weights.keys() == changes.weights.keys()
    for at, weight in held.weights.items():
        assert torch.equal(weight.dequantize(), changes.weights[at].dequantize())
    names = [decision.scheme for decision in plan.decisions]
    chosen = np.array([SPACE.names.index(name) for name in names])
    got = next(iter(simulator.change(changes).run(arrays, chosen).values()))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_a_module_without_a_trainable_plan_is_not_read() -> None:
    module, _ = pictures()
    with pytest.raises(PlanError, match="trainable=True"):
        mp.read_trained(module)
    plan, _ = planned(pictures, 1)
    mp.apply_plan(plan, module)
    with pytest.raises(PlanError, match="trainable=True"):
        mp.read_trained(module)


def test_what_a_plan_cannot_change_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.root = nn.Linear(8, 8), nn.Parameter(torch.tensor([[2.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.root.square().reshape(1)  # type: ignore[no-any-return]

    module, x = Scaled(), torch.randn(4, 8)
    plan, _ = make_plan(module, [x], seed=0)
    mp.apply_plan(plan, module, x, trainable=True)
    with torch.no_grad():
        module.root += 1
    with pytest.raises(PlanError, match=r"'root' has been trained.*freeze it"):
        module.mpsearch_plan.trained()
