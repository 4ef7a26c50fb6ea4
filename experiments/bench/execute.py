"""Time a model's program against onnxruntime, whole random plans, and what a one-at-a-time sweep re-executes.

Run from the repository: ``python -m experiments.bench.execute MODEL.onnx [--data DATA.npz] [--batch 64] [--samples 64]``.
Times are CPU time of this process, the best of several runs, so that ratios hold on a shared machine. Without
data, inputs are random.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from mpsearch.data.batches import Batches, make_batches, read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.space.space import SearchSpace

PLANS = 12


def best_time(run: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest of several runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def draw_inputs(graph: ModelGraph, rows: int, free: int) -> dict[str, NDArray[np.generic]]:
    """Random inputs; ``free`` is the size of axes that the model leaves open."""
    rng = np.random.default_rng(0)
    drawn: dict[str, NDArray[np.generic]] = {}
    for value in graph.inputs:
        shape = [rows, *(size or free for size in (value.shape or ())[1:])]
        dtype = np.dtype(value.dtype or "float32")
        if dtype.kind == "f":
            drawn[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            drawn[value.name] = rng.integers(0, 2, shape).astype(dtype)
    return drawn


def time_forward(path: Path, simulator: Simulator, batch: int) -> None:
    """Print fp32 forward times of both, for one batch and for one sample."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = simulator.batches.arrays
    for rows in (batch, 1):
        feeds = {name: array[:rows] for name, array in arrays.items()}
        repeats = 5 if rows > 1 else 50
        ours = best_time(lambda: simulator.run(feeds), repeats)  # noqa: B023 - called at once
        theirs = best_time(lambda: session.run(None, feeds), repeats)  # noqa: B023 - called at once
        print(
            f"fp32 forward, batch {rows:>3}: {1e3 * ours:8.2f} ms, onnxruntime {1e3 * theirs:8.2f} ms, "
            f"ratio {ours / theirs:.2f}",
            flush=True,
        )


def time_plans(simulator: Simulator) -> None:
    """Print the time of a random plan, once every weight has been simulated."""
    rng = np.random.default_rng(0)
    plans = [
        np.array([rng.choice(np.flatnonzero(row)) for row in simulator.allowed])
        for _ in range(2 * PLANS)
    ]
    times = []
    for plan in plans:
        start = time.process_time()
        simulator.losses(plan)
        times.append(time.process_time() - start)
    print(
        f"random plans over {', '.join(simulator.space.names)}: {1e3 * times[0]:.0f} ms the first, then "
        f"{1e3 * float(np.median(times[PLANS:])):.1f} ms each for {simulator.n_samples} samples",
        flush=True,
    )


def count_sweep(graph: ModelGraph, batches: Batches) -> None:
    """Print what share of its FLOPs a sweep of fp8 over all groups executes, beside the mean suffix."""
    space = SearchSpace("bench", (find_scheme("fp16"), find_scheme("fp8")))
    flops = [layer.flops for layer in graph.layers]
    suffix = np.mean([sum(flops[group.layers[0] :]) / sum(flops) for group in graph.groups])
    found = {}
    for name, limit in (("kept", None), ("fresh", 0)):
        simulator = Simulator(graph, space, batches, max_memory=limit)
        base = np.zeros(len(graph.groups), np.int64)
        simulator.losses(base)
        start, before = time.process_time(), simulator.executed_flops
        losses = []
        for group in np.flatnonzero(simulator.allowed[:, 1]):
            plan = base.copy()
            plan[group] = 1
            losses.append(simulator.losses(plan))
        seconds = time.process_time() - start
        found[name] = np.array(losses), simulator.executed_flops - before, seconds
    (kept, few, seconds), (fresh, all_flops, longer) = found["kept"], found["fresh"]
    same = "identical" if np.array_equal(kept, fresh) else "different"
    print(
        f"sweep of {len(kept)} changes: {few / all_flops:.3f} of the FLOPs of one without reuse, mean suffix "
        f"{suffix:.3f}, {seconds:.1f} s instead of {longer:.1f} s, losses {same}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--sweep-samples", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--free", type=int, default=48, help="size of axes the model leaves open")
    parser.add_argument("--space", default="npu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.data is not None:
        batches = read_batches(arguments.data, limit=arguments.samples, batch_size=arguments.batch)
    else:
        inputs = draw_inputs(import_onnx(arguments.model), arguments.samples, arguments.free)
        batches = make_batches(inputs, batch_size=arguments.batch)
    shapes = {name: (None, *array.shape[1:]) for name, array in batches.arrays.items()}
    graph = import_onnx(arguments.model, shapes=shapes)
    simulator = Simulator(graph, read_space(arguments.space), batches)
    time_forward(arguments.model, simulator, arguments.batch)
    time_plans(simulator)
    count_sweep(graph, batches.take(arguments.sweep_samples))


if __name__ == "__main__":
    main()
