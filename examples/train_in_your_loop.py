"""A torch module trained under a plan in a loop of one's own, and the trained plan exported.

Run: python -m examples.train_in_your_loop

Needs the extra torch-export: pip install 'mpsearch[torch-export]'
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.plan.changes import with_weights
from mpsearch.schemes import find_scheme


def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points in 32 dimensions, and which of ten directions each is nearest to."""
    directions = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    x = torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))
    return x, (x @ directions).argmax(1)


def fit(module: nn.Module, steps: int, rate: float) -> None:
    """The loop that one has anyway: any optimizer, any loss, any data."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, labels = draw(128, seed=step + 1)
        loss = F.cross_entropy(module(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main(folder: Path) -> None:
    """Train a module, choose a plan, train under it, export."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))  # fmt: skip
    fit(module, steps=200, rate=5e-3)
    x, _ = draw(256, seed=1001)

    file = folder / "module.onnx"
    exported = torch.onnx.export(
        module, (x[:2],), dynamo=True, optimize=False, verbose=False, dynamic_shapes=({0: "n"},)
    )
    assert exported is not None
    exported.save(str(file))
    graph = mp.import_onnx(file)
    name = graph.inputs[0].name
    space = mp.SearchSpace("ours", tuple(map(find_scheme, ("fp16", "nvfp4_2of4"))))
    simulator = mp.Simulator(graph, space, make_batches({name: x.numpy()}))
    everywhere = tuple(int(allowed) for allowed in simulator.allowed[:, 1])
    plan = mp.make_plan(mp.Point(everywhere, {}), simulator)

    mp.apply_plan(plan, module, x[:2], trainable=True)
    fit(module, steps=200, rate=2e-3)  # gradients pass straight through the rounding
    trained = with_weights(plan, mp.read_trained(module))

    unseen, labels = draw(2000, seed=2001)
    arrays: dict[str, Any] = {name: unseen.numpy(), "labels": labels.numpy().astype(np.int64)}
    data = make_batches(arrays)
    for said, which in (("plain", plan), ("trained", trained)):
        loss = mp.score_plan(which, file, data)
        print(f"{said}: {loss.mean:.3f} ± {loss.stderr:.3f} nats above fp32")
    files = mp.export_plan(trained, file, folder / "export")
    print("written:", ", ".join(sorted(path.name for path in files)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
