"""A device of one's own, as a file.

Run: python -m examples.own_device
"""

import tempfile
from pathlib import Path

import mpsearch as mp
from examples.small_model import write_small_model

DEVICE = """\
name = "edge_10tops"
title = "An accelerator of our own"
model = "roofline"
bandwidth_gb_s = 30
launch_us = 2.0
relative_error = 0.2
formats = ["fp16", "fp8", "int8"]

[peak_tflops]
fp16 = 2.5
fp8 = 5.0
int8 = 10.0
"""


def main(folder: Path) -> None:
    """Price uniform plans of the small model on the device."""
    model, _ = write_small_model(folder)
    path = folder / "edge_10tops.toml"
    path.write_text(DEVICE)
    graph, space = mp.import_onnx(model), mp.read_space("ada")
    costs = mp.estimate_costs(graph, space, mp.read_device(path), batch=64)
    for s, scheme in enumerate(costs.schemes):
        if costs.allowed[:, s].all():
            print(f"{scheme}: {costs.objectives['latency_us'][:, s].sum():.2f} µs")
        else:
            print(f"{scheme}: {costs.reasons[costs.groups[0], scheme]}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
