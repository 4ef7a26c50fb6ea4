"""Whether what recovery and training change is exported as it was measured: each layer of real models in two runtimes.

Run: python -m experiments.recovered_exports FOLDER [FOLDER …] [-o experiments/results/recovered_exports.json]

Each folder was made by ``python -m experiments.models NAME -o FOLDER``. Uniform plans (fp8 where a layer cannot take the scheme) are recovered with
``auto`` on 64 samples, one of them trained for a few steps as well, exported as canonical ONNX, and run in the reference evaluator and in
OpenVINO: a layer agrees where ‖runtime - simulation‖ / ‖simulation‖ is at most 1e-3 on the runtime's own inputs.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import mpsearch as mp
from experiments.train import uniform_plan
from mpsearch.data.batches import Batches, make_batches
from mpsearch.plan.plan import Plan
from mpsearch.plan.train import run_training
from mpsearch.recovery.training.loop import Effort
from mpsearch.recovery.training.recipe import Recipe
from mpsearch.verify.verify_plan import verify_plan

_SAMPLES = 64
_SCHEMES = ("nvfp4", "int8", "fp8_2of4")
_TRAINED, _STEPS = "nvfp4", 10
_RUNTIMES = {"reference": 2, "openvino": 32}


def plans_of(model: Path, data: Batches, schemes: tuple[str, ...]) -> Iterator[tuple[str, Plan]]:
    """Yield what each plan is, and the plan: recovered, one trained."""
    for name in schemes:
        plan, simulator = uniform_plan(model, data, name, {})
        recovered = mp.recover_plan(plan, simulator)
        yield f"{name}, {'+'.join((*recovered.transforms, *recovered.recovery))}", recovered
        if name == _TRAINED:
            recipe = Recipe(rate=1e-3, batch=16)
            trained = run_training(recovered, simulator, Effort(3600, _STEPS), recipe=recipe).plan
            yield f"{name}, {'+'.join(trained.recovery)}", trained


def check(model: Path, data: Batches, label: str, plan: Plan) -> list[dict[str, Any]]:
    """Export a plan and return what each runtime made of it."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        exported = Path(name) / "export"
        mp.export_plan(plan, model, exported)
        for runtime, samples in _RUNTIMES.items():
            found = verify_plan(plan, model, exported, data, runtime=runtime, samples=samples)
            worst = found.worst
            assert worst is not None
            rows.append(
                {
                    "plan": label,
                    "runtime": runtime,
                    "layers": len(found.layers),
                    "agree": sum(layer.ok for layer in found.layers),
                    "unproven": len(found.unproven),
                    "worst": worst.error,
                    "outputs": None if found.whole is None else found.whole.ok,
                }
            )
            print(model.parent.name, rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--schemes", nargs="+", default=_SCHEMES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in options.folders:
        model = folder / "model.onnx"
        calibration = mp.read_batches(folder / "calibration.npz", limit=_SAMPLES)
        data = make_batches(dict(calibration.arrays), batch_size=32)
        rows = [
            row
            for label, plan in plans_of(model, data, tuple(options.schemes))
            for row in check(model, data, label, plan)
        ]
        if options.out is not None:
            known = json.loads(options.out.read_text()) if options.out.exists() else {}
            options.out.write_text(json.dumps(known | {folder.name: rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
