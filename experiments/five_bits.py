"""What the best plans of at most 5 bits lose on the demo's held-out lines, once they are recovered.

Run: make demo, then python -m experiments.five_bits runs/demo [--lines 128 250]

The plan is the exact front's of the run's own table, no slower than uniform fp8, once each scheme's entries count by what recovery leaves of
them; it is recovered on so many of the demo's calibration lines (more lines go on where those end) and scored on its 800 held-out ones.
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.demo.demo import CALIBRATION_LINES, HELD_OUT_LINES, cache_folder, fetch_model
from mpsearch.demo.text_lines import orientation_arrays
from mpsearch.problem.build import build_problem
from mpsearch.problem.tables import read_costs, read_table
from mpsearch.recovery.recover import FewSamplesWarning, recover
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator

_LEFT = {"fp16": 1.0, "fp8": 0.65, "nvfp4": 0.4, "fp8_2of4": 0.2, "nvfp4_2of4": 0.2}
"""Of a scheme's loss, what recovery leaves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="of the demo")
    parser.add_argument("--bits", type=float, nargs="+", default=[4.95, 5.0])
    parser.add_argument("--lines", type=int, nargs="+", default=[128, 250])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", FewSamplesWarning)
    table, costs = (
        read_table(options.run / "sensitivity.json"),
        read_costs(options.run / "costs.json"),
    )
    graph = mp.import_onnx(fetch_model(cache_folder()), shapes={"x": (None, 3, 48, 192)})
    space = mp.SearchSpace("demo", tuple(map(find_scheme, table.schemes)))
    lines = orientation_arrays(CALIBRATION_LINES, seed=0)["x"]
    simulator = Simulator(graph, space, make_batches({"x": lines}))
    held_out = orientation_arrays(HELD_OUT_LINES, seed=1)
    judge = simulator.on_data(make_batches(dict(held_out), batch_size=100))
    print(f"fp32: NLL {judge.scores(None)['nll'].mean():.4f}", flush=True)
    fp8 = np.full(len(graph.groups), space.index("fp8"), np.int64)
    scaled = replace(table, values=table.values * np.array([_LEFT[s] for s in table.schemes]))
    fastest = float(build_problem(scaled, costs).evaluate(fp8[None])["latency_us"][0])
    problem = build_problem(scaled, costs, constraints=(f"latency_us <= {fastest!r}",))
    front = mp.find_front(problem, method="exact", objectives=("weight_bytes", "loss"))
    for bits in options.bits:
        point = mp.choose_point(front, limits={"effective_bits": bits})
        plan = np.array(point.assignment)
        values = {name: point.value(name).mean for name in ("effective_bits", "latency_us")}
        plain = judge.scores(plan)["nll"].mean()
        print(
            f"{values['effective_bits']:.2f} bits, {values['latency_us']:.2f} µs (uniform fp8 {fastest:.2f}): plain NLL {plain:.4f}",
            flush=True,
        )
        for count in options.lines:
            data = make_batches({"x": orientation_arrays(count, seed=0)["x"]})
            found = recover(simulator.on_data(data), plan)
            scores = judge.change(found.recovered.changes).scores(plan)
            nll, accuracy = (float(scores[name].mean()) for name in ("nll", "accuracy"))
            print(f"  {count} lines: NLL {nll:.4f}, accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
