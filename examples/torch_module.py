"""A torch module, its plan, and the module simulating it.

Run: python -m examples.torch_module

Needs the extra torch-export: pip install 'mpsearch[torch-export]'
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpsearch as mp


def main(folder: Path) -> None:
    """Find a plan for a module and run the module under it."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10), torch.nn.Softmax(-1)
    )
    x = torch.randn(64, 32)
    graph = mp.import_torch(module, x[:2])
    data = folder / "calib.npz"
    arrays: dict[str, Any] = {graph.inputs[0].name: x.numpy()}
    np.savez(data, **arrays)

    simulator = mp.Simulator(graph, mp.read_space("npu"), mp.read_batches(data))
    device = mp.read_device("npu_200tops")
    costs = mp.estimate_costs(graph, simulator.space, device, batch=16)
    table = mp.score_sensitivity(simulator, metric="perturbation")
    front = mp.find_front(mp.build_problem(table, costs))
    plan = mp.make_plan(mp.choose_point(front, knee=True), simulator, costs=costs)

    with torch.no_grad():
        exact = module(x)
        simulated = mp.apply_plan(plan, module, x[:2])(x)
    print("schemes:", ", ".join(decision.scheme for decision in plan.decisions))
    print(f"largest change of a probability: {float((simulated - exact).abs().max()):.4f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
