"""``python -m experiments.mixed_runtimes FOLDER…``: mixed plans of real models in three runtimes.

FOLDER is one that ``python -m experiments.models`` made. Schemes are dealt out to the groups in turn, ranges come from its
calibration data, and held-out samples are run: each layer on the runtime's own inputs, and the whole model.
Writes ``experiments/results/mixed_runtimes.json``.
"""

import argparse
import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpsearch.data.batches import read_batches
from mpsearch.errors import MpsearchError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.verify_plan import verify_plan

RESULT = Path("experiments/results/mixed_runtimes.json")
EVERY = ("nvfp4", "fp8", "int8", "fp16", "mxfp4", "w4a16_g32", "bf16")
LOWERED = ("int8", "fp8", "w4a16_g32", "fp16", "int8", "fp32")
INTEGER = ("int8", "int8", "fp32")
NARROW = ("nvfp4a16", "w4a16_g32", "fp8", "mxfp4a16", "fp16", "w4a16_g32", "int8")
NARROW_LOWERED = ("w4a16_g32", "fp8", "w4a16_g32", "int8", "w4a16_g64", "fp32")
RUNS = {
    "every format": ("fp16", EVERY, "onnx", ("openvino", "reference")),
    "every format, OpenVINO's file": ("fp16", EVERY, "openvino", ("openvino",)),
    "formats of onnxruntime": ("fp32", LOWERED, "onnxruntime", ("onnxruntime",)),
    "int8 and fp32": ("fp32", INTEGER, "onnxruntime", ("onnxruntime",)),
    "mostly narrow weights": ("fp16", NARROW, "onnx", ("openvino", "reference")),
    "mostly narrow weights, onnxruntime": ("fp32", NARROW_LOWERED, "onnxruntime", ("onnxruntime",)),
    "int8 and fp32, canonical": ("fp32", INTEGER, "onnx", ("openvino", "onnxruntime")),
}
"""Name to base, schemes that are dealt out, target and runtimes."""


def run(folder: Path, name: str, calibration: int, samples: int) -> dict[str, Any]:
    """Return what each runtime made of one plan of the folder's model."""
    base, schemes, target, runtimes = RUNS[name]
    space = SearchSpace("mixed", tuple(map(find_scheme, dict.fromkeys((base, *schemes)))), base)
    batches = read_batches(folder / "calibration.npz", limit=calibration)
    shapes = {name: (1, *array.shape[1:]) for name, array in batches.arrays.items()}
    graph = import_onnx(folder / "model.onnx", shapes=shapes)
    simulator = Simulator(graph, space, batches)
    wanted = [space.index(schemes[g % len(schemes)]) for g in range(len(simulator.graph.groups))]
    chosen = tuple(s if simulator.allowed[g, s] else 0 for g, s in enumerate(wanted))
    plan = make_plan(Point(chosen, {}), simulator)
    counts = Counter(decision.scheme for decision in plan.decisions)
    held_out = read_batches(folder / "held_out.npz", limit=samples)
    found: dict[str, Any] = {"target": target, "base": base, "layers": dict(counts)}
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out"
        export_plan(plan, folder / "model.onnx", out, target=target)
        for runtime in runtimes:
            started = time.monotonic()
            try:
                verified = verify_plan(
                    plan, folder / "model.onnx", out, held_out, runtime=runtime, samples=samples
                )
            except MpsearchError as error:
                found[runtime] = {"refused": str(error).splitlines()[0]}
                continue
            print(
                f"{folder.name}, {name}: {verified}",
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
            told = verified.to_json()
            worst = verified.worst
            found[runtime] = {
                "ok": verified.ok,
                "samples": verified.n_samples,
                "layers": len(verified.layers),
                "layers_within": sum(check.ok for check in verified.layers),
                "worst_layer": None if worst is None else [worst.layer, worst.scheme, worst.error],
                "whole": told["whole"],
                "unproven": dict(verified.unproven),
                "deployed": _deployed(told["deployed"]),
            }
    return found


def _deployed(told: dict[str, Any] | None) -> dict[str, Any] | None:
    if told is None:
        return None
    kernels = dict(Counter(told.pop("kernels").values()))
    return {"kernels": kernels, **told}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.mixed_runtimes", description=__doc__
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--calibration", type=int, default=16, help="samples that ranges come from")
    parser.add_argument("--samples", type=int, default=4, help="held-out samples that are run")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="PLAN")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for folder in given.folders:
        for name in given.only:
            found = run(folder, name, given.calibration, given.samples)
            known.setdefault(folder.name, {})[name] = found
            RESULT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
