"""What recovery moves the front by: hypervolume of few recovered plans and of many plain ones.

Run: make demo, then python -m experiments.recovered_front runs/demo [-o experiments/results/recovered_front.json]

Both take the exact fronts of the run's own table, of latency and of size; for recovered plans entries count by what recovery leaves of them (the
first belief of the search). ``--plans`` points spread over each front are recovered on the demo's calibration lines; of plain ones 40 are measured on each. What
both took of the processor is said. All are scored on lines of another seed. The hypervolume is the share of a box that losses dominate: from
the least latency (size) of both to that of uniform fp16, from 0 to ``--worst`` nats.
"""

import argparse
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.demo.demo import CALIBRATION_LINES, cache_folder, fetch_model
from mpsearch.demo.text_lines import orientation_arrays
from mpsearch.problem.build import build_problem
from mpsearch.problem.pareto import hypervolume, thin
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Table, read_costs, read_table
from mpsearch.recovery.recover import FewSamplesWarning, recover
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.recovery_factors import DENSE, SPARSE

_GOALS = ("latency_us", "weight_bytes")
_SEED = 302
_MOST = 40
"""Plain plans that are measured on each front at most."""


def shrink(table: Table) -> Table:
    """Return a table whose losses are what recovery is believed to leave."""
    left = np.array([DENSE if find_scheme(s).sparsity is None else SPARSE for s in table.schemes])
    return replace(table, values=table.values * left, stderr=table.stderr * left)


def spread(problem: Problem, goal: str, count: int) -> list[tuple[int, ...]]:
    """Return ``count`` assignments spread over the exact front of ``goal`` and loss."""
    front = mp.find_front(problem, method="exact", objectives=(goal, "loss"))
    chosen = thin(front.objectives, min(count, len(front.points)))
    return [front.points[i].assignment for i in np.asarray(chosen).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="of the demo")
    parser.add_argument("--plans", type=int, default=5, help="that are recovered, a front")
    parser.add_argument("--lines", type=int, default=200, help="that plans are scored on")
    parser.add_argument("--worst", type=float, nargs="+", default=[0.4, 0.1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path)
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
    x = orientation_arrays(options.lines, seed=_SEED)["x"]
    judge = simulator.on_data(make_batches({"x": x}, batch_size=100))
    problems = {
        "recovered": build_problem(shrink(table), costs),
        "plain": build_problem(table, costs),
    }
    losses: dict[str, dict[tuple[int, ...], float]] = {"recovered": {}, "plain": {}}
    began, seconds = time.process_time(), dict[str, float]()
    for goal in _GOALS:
        for plan in spread(problems["recovered"], goal, options.plans):
            made = recover(simulator, np.array(plan)).recovered.changes
            losses["recovered"][plan] = judge.change(made).loss(np.array(plan)).mean
            print(f"recovered, {goal}: {losses['recovered'][plan]:.4f}", flush=True)
    seconds["recovered"], began = time.process_time() - began, time.process_time()
    for goal in _GOALS:
        for plan in spread(problems["plain"], goal, _MOST):
            if plan not in losses["plain"]:
                losses["plain"][plan] = judge.loss(np.array(plan)).mean
    seconds["plain"] = time.process_time() - began
    table_of: dict[str, Any] = {
        "processor_s": seconds,
        "plans": {name: len(found) for name, found in losses.items()},
    }
    values = {
        name: problems["plain"].evaluate(np.array(list(found))) for name, found in losses.items()
    }
    base = problems["plain"].evaluate(np.full((1, len(graph.groups)), space.index("fp16")))
    points = {
        name: [
            {goal: float(values[name][goal][i]) for goal in _GOALS} | {"loss": loss}
            for i, loss in enumerate(found.values())
        ]
        for name, found in losses.items()
    }
    fronts = {**points, "together": [*points["recovered"], *points["plain"]]}
    for goal in _GOALS:
        least, most = min(p[goal] for p in fronts["together"]), float(base[goal][0])
        for worst in options.worst:
            table_of[f"{goal}, {worst:g} nats"] = {
                name: hypervolume(
                    [((p[goal] - least) / (most - least), p["loss"] / worst) for p in found],
                    (1.0, 1.0),
                )
                for name, found in fronts.items()
            }
    table_of["points"] = points
    print(json.dumps({k: v for k, v in table_of.items() if k != "points"}, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(table_of, indent=1) + "\n")


if __name__ == "__main__":
    main()
