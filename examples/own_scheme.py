"""A scheme of one's own, in a search space of one's own.

Run: python -m examples.own_scheme
"""

import tempfile
from pathlib import Path

import mpsearch as mp
from examples.small_model import write_small_model

SPACE = """\
description = "int4 weights in groups of 16 instead of 128"
base = "fp16"
schemes = ["fp16", "w4a16", "w4_fine"]

[[scheme]]
name = "w4_fine"
like = "w4a16"
weight = { block_shape = [1, 16] }

[[rules]]
name = "fc0"
forbid = ["w4*"]
reason = "the first layer stays as it is"
"""


def main(folder: Path) -> None:
    """Compare the scheme with the built-in one that it is like."""
    model, data = write_small_model(folder)
    path = folder / "fine.toml"
    path.write_text(SPACE)
    simulator = mp.Simulator(mp.import_onnx(model), mp.read_space(path), mp.read_batches(data))
    table = mp.score_sensitivity(simulator, metric="perturbation")
    for group, row, allowed in zip(table.groups, table.values, table.allowed, strict=True):
        said = [
            f"{name} {value:.5f}" if ok else f"{name} – ({table.reasons[group, name]})"
            for name, value, ok in zip(table.schemes, row, allowed, strict=True)
        ]
        print(f"{group}: {', '.join(said)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
