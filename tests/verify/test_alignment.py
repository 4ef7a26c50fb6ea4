"""Training, simulation and deployment compute one thing: a plan on the torch module, in the simulator and in a runtime."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.match import plan_assignment, plan_schemes
from mpsearch.plan.score import simulate_plan
from mpsearch.registry import find
from mpsearch.runtimes.session import find_model
from mpsearch.schemes import find_scheme
from mpsearch.simulate.changes import Changes, output_channels
from mpsearch.simulate.probe import capture, replay
from tests.support.changed_plans import change_weight

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")

SPACE = mp.SearchSpace(
    "s", tuple(map(find_scheme, ("fp16", "int8", "fp8", "nvfp4", "fp8_dynamic", "fp8_2of4")))
)
RUNTIMES = ["reference"] + (["openvino"] if find_spec("openvino") else [])
TOLERANCE = 1e-3


class Net(nn.Module):
    """Convolutions plain and depthwise, then linear layers: submodules that are a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 3, padding=1)
        self.depth = nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.point = nn.Conv2d(16, 32, 1)
        self.hidden = nn.Linear(32, 48)
        self.middle = nn.Linear(48, 48)
        self.head = nn.Linear(48, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(torch.relu(self.depth(torch.relu(self.stem(x))))))
        x = torch.relu(self.hidden(x.mean((2, 3))))
        return self.head(torch.relu(self.middle(x)))


@pytest.fixture(scope="module")
def imported() -> tuple[nn.Module, Tensor, mp.Simulator]:
    torch.manual_seed(0)
    module, x = Net().eval(), torch.randn(6, 4, 8, 8)
    graph = mp.import_torch(module, [x])
    batches = make_batches({graph.inputs[0].name: x.numpy()})
    return module, x, mp.Simulator(graph, SPACE, batches)


def planned(simulator: mp.Simulator, changed: bool) -> mp.Plan:
    """A mixed plan, with other weights, scales and biases than the model's where ``changed``."""
    chosen = tuple(map(SPACE.index, ("int8", "fp8", "nvfp4", "fp8_dynamic", "fp8_2of4", "nvfp4")))
    plan = mp.make_plan(mp.Point(chosen, {}), simulator)
    if not changed:
        return plan
    graph, rng = simulator.graph, torch.Generator().manual_seed(1)
    schemes = plan_schemes(plan, graph)
    weights = {(i, 0): change_weight(graph, i, 0, scheme) for i, scheme in enumerate(schemes)}
    sizes = [output_channels(graph, i) or 0 for i in range(len(schemes))]
    biases = {i: 0.1 * torch.randn(size, generator=rng) for i, size in enumerate(sizes)}
    return bring_changes(plan, graph, Changes(weights, biases), recovery=("gptq", "bias"))


def run_module(plan: mp.Plan, module: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Submodule to what it reads and gives while the plan is on the module."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    mp.apply_plan(plan, module, [x])

    def keep(name: str) -> Any:
        return lambda _, inputs, output: seen.update({name: (inputs[0].detach(), output.detach())})

    hooks = [inner.register_forward_hook(keep(name)) for name, inner in module.named_children()]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    module.mpsearch_plan.remove()  # type: ignore[union-attr, operator]
    return seen


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("changed", [False, True], ids=["plain", "changed"])
def test_module_simulator_and_runtimes_agree_layer_by_layer(
    imported: tuple[nn.Module, Tensor, mp.Simulator], tmp_path: Path, changed: bool
) -> None:
    module, x, first = imported
    graph, batches, plan = first.graph, first.batches, planned(first, changed)
    plain = module(x)
    trained = run_module(plan, module, x)
    simulator = simulate_plan(plan, graph, batches)
    calibrated, assignment = simulator.calibrated, plan_assignment(plan, graph, simulator.space)
    simulated = capture(calibrated, range(len(graph.layers)), batches.arrays, assignment)
    mp.export_plan(plan, graph, tmp_path / "out")
    session = find("runtimes", "reference")(find_model(tmp_path / "out"))
    found = session.run(batches.arrays, [layer.output for layer in graph.layers])
    deployed = {name: torch.from_numpy(np.array(array)) for name, array in found.items()}
    for i, layer in enumerate(graph.layers):
        read, gave = trained[layer.fqn.removesuffix(".weight")]
        scheme = simulator.space.index(plan_schemes(plan, graph)[i].name)
        alone = replay(calibrated, i, scheme, {layer.gemms[0].left.value: read})
        assert error(gave, alone) < 1e-5, f"{layer.name}: module and simulation on the same inputs"
        assert error(simulated[layer.output], gave) < TOLERANCE, layer.name
        assert error(deployed[layer.output], gave) < TOLERANCE, layer.name
    for runtime in RUNTIMES:  # each layer fed the runtime's own inputs, its rounding in the oracle
        assert (
            checked := mp.verify_plan(plan, graph, tmp_path / "out", batches, runtime=runtime)
        ).ok
        assert len(checked.layers) == len(graph.layers)
    assert error(plain, trained["head"][1]) > 10 * TOLERANCE  # the plan changes more than that
