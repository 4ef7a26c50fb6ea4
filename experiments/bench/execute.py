"""Time the program of a model against onnxruntime, and whole-plan evaluations in each scheme.

Run from the repository: ``python -m experiments.bench.execute MODEL.onnx [--batch 64] [--samples 250]``. Times are the
best of several runs in one process, so that ratios hold on a shared machine; random inputs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from mpsearch.data import Batches, make_batches
from mpsearch.execute.simulator import Simulator
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.space import read_space, uniform


def best_time(run: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
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
        ours = best_time(lambda: simulator.run(feeds))  # noqa: B023 - called at once
        theirs = best_time(lambda: session.run(None, feeds))  # noqa: B023 - called at once
        print(
            f"fp32 forward, batch {rows:>3}: {1e3 * ours:8.1f} ms, onnxruntime {1e3 * theirs:8.1f} ms, "
            f"ratio {ours / theirs:.2f}"
        )


def time_evaluations(graph: ModelGraph, batches: Batches, space_name: str) -> None:
    """Print the time of one whole-plan evaluation in each scheme, nothing reused."""
    space = read_space(space_name)
    for name in space.names:
        simulator = Simulator(graph, space, batches, max_memory=2**28)
        assignment = uniform(space, graph, name, simulator.allowed)
        count = int((assignment == space.index(name)).sum())

        def evaluate(
            simulator: Simulator = simulator, assignment: NDArray[np.int64] = assignment
        ) -> object:
            simulator._losses.clear()  # the cache is what is not timed
            return simulator.losses(assignment)

        seconds = best_time(evaluate, repeats=3)
        print(f"uniform {name:<12} {seconds:6.2f} s for {len(batches)} samples, {count} groups")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--free", type=int, default=48, help="size of axes the model leaves open")
    parser.add_argument("--space", default="npu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    graph = import_onnx(arguments.model)
    inputs = draw_inputs(graph, arguments.samples, arguments.free)
    batches = make_batches(inputs, batch_size=arguments.batch)
    space = read_space(arguments.space)
    time_forward(arguments.model, Simulator(graph, space, batches), arguments.batch)
    time_evaluations(graph, batches, arguments.space)


if __name__ == "__main__":
    main()
