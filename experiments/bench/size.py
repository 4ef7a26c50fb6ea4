"""Large models: what inspection, import and a sensitivity sweep of one take in memory and time.

Run from the repository: ``python -m experiments.bench.size [inspect|import|sweep …]``. Models are generated in a
temporary folder and removed; each figure comes from a process of its own. Anonymous memory is RssAnon of
/proc/self/status, sampled every 20 ms; resident memory is VmHWM. Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH = 4096
_BLOCK_BYTES = WIDTH * WIDTH * 4


def write_tall_model(path: Path, *, blocks: int, filled: bool) -> None:
    """Write residual blocks x + relu(x W) with external weights, then four classes.

    Args:
        path: The ONNX file; its weights go beside it.
        blocks: How many, each of 64 MiB of weights.
        filled: Whether the weights are random; otherwise the file is sparse and they are zeros.
    """
    data = path.with_suffix(".data")
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(WIDTH * WIDTH, np.float32) * np.float32(0.5 / WIDTH**0.5)
    with data.open("wb") as file:
        for block in range(blocks if filled else 0):
            file.write(np.roll(noise, block * 4099).tobytes())
        file.truncate(blocks * _BLOCK_BYTES)
    nodes, weights, x = [], [], "x"
    for block in range(blocks):
        weights.append(_external(f"w{block}", (WIDTH, WIDTH), data.name, block * _BLOCK_BYTES))
        nodes += [
            helper.make_node("MatMul", [x, f"w{block}"], [f"p{block}"], name=f"block{block}"),
            helper.make_node("Relu", [f"p{block}"], [f"r{block}"], name=f"relu{block}"),
            helper.make_node("Add", [x, f"r{block}"], [f"a{block}"], name=f"add{block}"),
            helper.make_node("Mul", [f"a{block}", "shrink"], [f"y{block}"], name=f"shrink{block}"),
        ]
        x = f"y{block}"
    head = (rng.standard_normal((WIDTH, 4)) / WIDTH**0.5).astype(np.float32)
    nodes += [
        helper.make_node("MatMul", [x, "head"], ["z"], name="classes"),
        helper.make_node("Softmax", ["z"], ["p"], name="softmax", axis=-1),
    ]
    weights += [
        onnx.numpy_helper.from_array(np.float32(0.85), "shrink"),
        onnx.numpy_helper.from_array(head, "head"),
    ]
    _save(path, nodes, weights, {"x": ["n", WIDTH]}, {"p": ["n", 4]})


def write_long_model(path: Path, *, nodes: int) -> None:
    """Write a chain of small products, additions and activations, ``nodes`` in all."""
    rng, x = np.random.default_rng(0), "x"
    kinds = ("MatMul", "Add", "Relu", "Sigmoid")
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), f"w{i}")
        for i in range(16)
    ]
    weights.append(onnx.numpy_helper.from_array(np.ones(8, np.float32), "b"))
    made = []
    for i in range(nodes):
        kind = kinds[i % 4]
        more = {"MatMul": [f"w{i % 16}"], "Add": ["b"]}.get(kind, [])
        made.append(helper.make_node(kind, [x, *more], [f"v{i}"], name=f"node{i}"))
        x = f"v{i}"
    _save(path, made, weights, {"x": ["n", 8]}, {x: ["n", 8]})


def _external(name: str, shape: tuple[int, ...], location: str, offset: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    length = 4 * int(np.prod(shape))
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    inputs: dict[str, list[str | int]],
    outputs: dict[str, list[str | int]],
) -> None:
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in x.items()]
        for x in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "generated", *infos, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def status_bytes(key: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


@contextmanager
def anonymous_peak() -> Iterator[list[int]]:
    """Yield a list whose one element is the largest RssAnon so far."""
    peak, done = [status_bytes("RssAnon")], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], status_bytes("RssAnon"))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def inspect(path: Path) -> dict[str, float]:
    """Import and read every shape, digest and coverage; no weight is read."""
    from mpsearch.cost.estimate_costs import estimate_costs
    from mpsearch.graph.importer import import_onnx
    from mpsearch.space.files import read_space

    start, cpu_start = time.perf_counter(), time.process_time()
    graph = import_onnx(path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    space = read_space("hopper")
    costs = estimate_costs(graph, space, "h100_sxm5_80gb")
    return {
        "nodes": len(graph.nodes),
        "parameters": graph.coverage.total_parameters,
        "weight_bytes": float(costs.objectives["weight_bytes"][:, 0].sum()),
        "import_s": seconds,
        "import_cpu_s": cpu,
        "resident_bytes": status_bytes("VmHWM"),
    }


def sweep(path: Path, max_memory: int, samples: int, batch: int, schemes: str) -> dict[str, float]:
    """Score every layer in every scheme by perturbation and watch the memory."""
    from mpsearch.data.batches import make_batches
    from mpsearch.graph.importer import import_onnx
    from mpsearch.schemes import find_scheme
    from mpsearch.sensitivity.score_sensitivity import score_sensitivity
    from mpsearch.simulate.simulator import Simulator
    from mpsearch.space.space import SearchSpace

    x = np.random.default_rng(1).standard_normal((samples, WIDTH)).astype(np.float32)
    space = SearchSpace("bench", tuple(map(find_scheme, schemes.split(","))))
    start, cpu = time.perf_counter(), time.process_time()
    with anonymous_peak() as peak:
        graph = import_onnx(path)
        batches = make_batches({"x": x}, batch_size=batch)
        simulator = Simulator(graph, space, batches, max_memory=max_memory or None)

        def told(done: int, total: int, text: str) -> None:
            print(f"{done}/{total} {text} {peak[0] / 1e6:.0f} MB", file=sys.stderr, flush=True)

        table = score_sensitivity(simulator, metric="perturbation", progress=told)
    return {
        "parameters": graph.coverage.total_parameters,
        "groups": len(table.groups),
        "entries": int(table.allowed.sum()) - len(table.groups),
        "anonymous_bytes": peak[0],
        "mean_loss": float(table.values.sum() / max(int(table.allowed.sum()), 1)),
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
    }


def run_alone(*arguments: object) -> dict[str, float]:
    """Return what this script prints when it is run with ``arguments`` in a new process."""
    command = [sys.executable, "-m", "experiments.bench.size", "alone", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _show(name: str, found: dict[str, float]) -> None:
    figures = ", ".join(
        f"{key.removesuffix('_bytes')} {value / 1e6:,.0f} MB"
        if key.endswith("_bytes")
        else f"{key} {value:,.4g}"
        for key, value in found.items()
    )
    print(f"{name}: {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    choices = ("inspect", "import", "sweep")
    parser.add_argument("what", nargs="*", default=[], metavar="|".join(choices))
    parser.add_argument("--gb", type=float, default=4.3, help="weights of the swept model")
    parser.add_argument("--max-memory-gb", type=float, default=2.0)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--schemes", default="fp16,fp8,nvfp4")
    arguments = parser.parse_args()
    wanted = arguments.what or choices
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        if "inspect" in wanted:
            write_tall_model(path, blocks=round(20e9 / _BLOCK_BYTES), filled=False)
            _show("inspect 20 GB", run_alone("inspect", path))
        if "import" in wanted:
            write_long_model(path, nodes=10_000)
            _show("import 10 000 nodes", run_alone("inspect", path))
        if "sweep" in wanted:
            blocks = round(arguments.gb * 1e9 / _BLOCK_BYTES)
            write_tall_model(path, blocks=blocks, filled=True)
            limit = int(arguments.max_memory_gb * 1e9)
            more = (limit, arguments.samples, arguments.batch, arguments.schemes)
            _show(
                f"sweep of {arguments.gb:g} GB under {limit / 1e9:g} GB",
                run_alone("sweep", path, *more),
            )


def _alone(arguments: list[str]) -> None:
    what, path, *more = arguments
    if what == "inspect":
        found = inspect(Path(path))
    else:
        max_memory, samples, batch = map(int, more[:3])
        found = sweep(Path(path), max_memory, samples, batch, more[3])
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:
        _alone(sys.argv[2:])
    else:
        main()
