"""Hold what the models of ``docs/models-to-try.md`` are understood as against the files that were checked by hand.

``python -m experiments.golden FOLDER`` takes FOLDER/NAME as ``python -m experiments.models NAME -o FOLDER/NAME`` made
them, compares layers, roles and groups with ``tests/graph/golden/NAME.txt`` and the fp32 outputs of the simulator's
program with onnxruntime's; ``--write`` writes the files anew, to be checked by hand.
"""

import argparse
import difflib
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from experiments.models.__main__ import NAMES
from experiments.models.made import onnxruntime_run
from mpsearch.data.batches import Batches, read_batches
from mpsearch.data.fit import check_batches, data_shapes
from mpsearch.graph.importer import import_onnx, read_inputs
from mpsearch.graph.model import ModelGraph
from mpsearch.program.compile import compile_graph
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.program.tensors import to_tensor
from tests.support.golden_text import GOLDEN, describe

_TOLERANCE = 1e-4


def largest_error(graph: ModelGraph, model: Path, batches: Batches) -> float:
    """Largest difference from onnxruntime over the first batch, relative to the output's largest value."""
    program = compile_graph(graph)
    wanted = [program.slots[name] for name in program.outputs]
    values = program.make_values()
    feed = next(check_batches(batches, graph).iterate())
    for name, array in feed.items():
        values[program.slots[name]] = to_tensor(array, torch.device("cpu"))
    with torch.inference_mode():
        run_schedule(make_schedule(program, wanted), values)
    worst = 0.0
    for name, expected in onnxruntime_run(model, threads=1)(feed).items():
        found = values[program.slots[name]]
        if found is None or expected.dtype.kind != "f":
            continue
        scale = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
        worst = max(worst, float(np.abs(found.numpy() - expected).max(initial=0.0)) / scale)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.golden", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--write", action="store_true", help="write the golden files anew")
    arguments = parser.parse_args()
    failed = 0
    for name in NAMES:
        model = arguments.folder / name / "model.onnx"
        if not model.is_file():
            print(f"{name:12} not made")
            continue
        limit = 94 if name == "silero" else 1 if name == "ddddocr" else 4
        data = arguments.folder / name / "calibration.npz"
        batches = read_batches(data, limit=limit, batch_size=limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = data_shapes(batches, *read_inputs(model))
            graph = import_onnx(model, shapes=shapes)
            error = largest_error(graph, model, batches)
        path, found = GOLDEN / f"{name}.txt", describe(graph)
        if arguments.write:
            path.write_text(found)
        known = path.read_text() if path.is_file() else ""
        same = "as checked" if found == known else "DIFFERS"
        failed += found != known or error > _TOLERANCE
        print(
            f"{name:12} {same}, {len(graph.layers)} layers, fp32 within {error:.1e} of onnxruntime"
        )
        if found != known:
            sys.stdout.writelines(
                difflib.unified_diff(known.splitlines(True), found.splitlines(True), n=0)
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
