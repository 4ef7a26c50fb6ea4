"""A sweep of three models, three devices and two budgets by one command, twice: ``python -m experiments.sweep --work WORK``."""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpsearch.artifacts import write_text

WIDTHS = {"narrow": 16, "middle": 24, "wide": 32}
DEVICES = ("npu_200tops", "h100_sxm5_80gb", "rtx5090")
BUDGETS = (20, 40)
JOB = """batch_size = 16
metric = "calibrated"
method = "refine"
measure = 4
refine = 8
threads = 1
device = "npu_200tops"

[sweep]
model = [{models}]
device = {devices}
budget = {budgets}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, width in WIDTHS.items():
        write(args.work, name, width)
        entries.append(f'{{model = "{name}.onnx", data = "{name}.npz"}}')
    job = args.work / "sweep.toml"
    job.write_text(
        JOB.format(models=", ".join(entries), devices=list(DEVICES), budgets=list(BUDGETS))
    )
    command = [sys.executable, "-m", "mpsearch", "batch", str(job), "-o", str(args.work / "runs")]
    command += ["--workers", str(args.workers), "--json"]
    first, second = run(command), run(command)
    with (args.work / "runs" / "summary.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = {
        "runs": len(WIDTHS) * len(DEVICES) * len(BUDGETS),
        "first": first,
        "second": second,
        "lines_of_the_summary": len(lines),
        "runs_in_the_summary": len({line["run"] for line in lines}),
    }
    if args.out:
        write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def run(command: list[str]) -> dict[str, Any]:
    """Run the batch; return what became of its runs, wall time, and processor time of all processes."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {
        "counts": json.loads(done.stdout)["counts"],
        "wall_s": round(seconds, 2),
        "processor_s_of_the_command": round(used, 2),
    }


def write(folder: Path, name: str, width: int) -> None:
    """A network of three convolutions and a product, of random weights, and data for it."""
    rng = np.random.default_rng(width)
    shapes: dict[str, tuple[int, ...]] = {
        "w1": (width, 3, 3, 3),
        "w2": (width, width, 3, 3),
        "w3": (width, width, 1, 1),
    }
    shapes["w4"] = (10, width)
    weights = [
        numpy_helper.from_array(
            (rng.normal(size=s) / np.sqrt(np.prod(s[1:])) * 1.5).astype(np.float32), key
        )
        for key, s in shapes.items()
    ]
    nodes, value = [], "x"
    for i, pad in enumerate((1, 1, 0), start=1):
        nodes.append(
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[pad] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value = f"r{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w4"], ["logits"], "head", transB=1),
        helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", x=rng.normal(size=(48, 3, 12, 12)).astype(np.float32))


if __name__ == "__main__":
    main()
