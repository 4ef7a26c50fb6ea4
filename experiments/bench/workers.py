"""What workers are worth, and where more of them stop being: ``python -m experiments.bench.workers MODEL.onnx --data CALIB.npz``.

A sensitivity sweep (``perturbation``) with one process and with several, one thread each. The machine may be shared, so two
figures are given: wall-clock time, and processor time along the longest path, the driver's and the busiest worker's, which
other people's work moves less. A model of both is fitted and carried to larger models and more workers.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpsearch.artifacts import write_text
from mpsearch.data.batches import read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.simulate.loss_store import Ahead, Assignment, MemoryLosses
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.workers.local import LocalWorkers

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=64)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    batches = read_batches(args.data, limit=args.lines, batch_size=16)
    graph, space = import_onnx(args.model), read_space("npu")
    rows: list[dict[str, Any]] = []
    values = []
    for repeat in range(args.repeats):
        for count in args.counts:  # in turns: what else the machine does falls on all alike
            simulator = Simulator(graph, space, batches)
            row, table = sweep(simulator, count)
            rows.append({"repeat": repeat} | row)
            values.append(table)
            print(rows[-1], flush=True)
    assert all(np.array_equal(values[0], other) for other in values)  # workers change nothing
    found = {"rows": rows, "fit": fit(rows), "load": os.getloadavg()[0], "cores": os.cpu_count()}
    if args.out:
        write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["fit"], indent=1))


class Watched(MemoryLosses):
    """Losses in memory that workers measure ahead."""

    __slots__ = ("ahead",)
    ahead: Ahead | None

    def announce(self, assignments: Any, batches: Any) -> None:
        """Have what is missing measured."""
        if self.ahead is not None:
            wanted = [(a, b) for a in dict.fromkeys(assignments) for b in batches]
            self.ahead.measure([t for t in wanted if self.get(*t) is None], self._keep)

    def _keep(self, assignment: Assignment, batch: int, losses: Any) -> None:
        self.put(assignment, batch, losses)


def sweep(simulator: Simulator, count: int) -> tuple[dict[str, Any], Any]:
    """Score every entry; return what it took, and the table."""
    store = Watched()
    store.ahead = None
    workers = None
    started, cpu = time.perf_counter(), time.process_time()
    if count > 1:
        workers = LocalWorkers(simulator, count, lambda *_: None, print)
        store.ahead = workers
    table = score_sensitivity(simulator.keep_losses(store), metric="perturbation")
    wall, own = time.perf_counter() - started, time.process_time() - cpu
    each = [] if workers is None else [processor(w.process.pid) for w in workers._workers]
    if workers is not None:
        workers.close()
    tasks = len(store._known)
    return {
        "workers": count,
        "tasks": tasks,
        "wall_s": round(wall, 2),
        "driver_processor_s": round(own, 3),
        "worker_processor_s": [round(value, 2) for value in each],
        "longest_path_s": round(own + max(each, default=0.0), 3),
    }, table.values


def processor(pid: int) -> float:
    """Processor seconds that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def fit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A model of the sweep: evaluations shared out, what a worker begins with, what the driver does for each task."""
    counts = sorted({row["workers"] for row in rows})
    path = {n: median(rows, n, "longest_path_s") for n in counts}
    wall = {n: median(rows, n, "wall_s") for n in counts}
    several = [n for n in counts if n > 1]
    tasks = rows[0]["tasks"]
    driver = float(np.median([row["driver_processor_s"] for row in rows if row["workers"] > 1]))
    design = np.array([[tasks / n, 1.0] for n in several])
    busiest = np.array([path[n] - driver for n in several])
    if len(several) > 1:
        (evaluation, begin), *_ = np.linalg.lstsq(design, busiest, rcond=None)
    else:
        evaluation, begin = busiest[0] / design[0, 0], 0.0
    return {
        "tasks": tasks,
        "evaluation_s": float(evaluation),
        "begin_s_a_worker": float(begin),
        "driver_s_a_task": driver / tasks,
        "one_process_s": path[counts[0]],
        "speedup_by_longest_path": {n: path[counts[0]] / path[n] for n in several},
        "speedup_by_wall_clock": {n: wall[counts[0]] / wall[n] for n in several},
        "driver_is_full_at_workers": float(evaluation) / (driver / tasks),
    }


def median(rows: list[dict[str, Any]], count: int, name: str) -> float:
    """Median of a figure over the repeats with so many workers."""
    return float(np.median([row[name] for row in rows if row["workers"] == count]))


if __name__ == "__main__":
    main()
