"""Seconds that pricing takes: 10 000 layers at 8 schemes on an NPU and on a GPU with fitted kernels.

Run as ``python -m experiments.bench.price``.
"""

import argparse
import time

from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.graph.model import Coverage, Edge, Gemm, Group, Layer, ModelGraph, Operand
from mpsearch.schemes import find_scheme
from mpsearch.space.space import SearchSpace

SCHEMES = {
    "npu_200tops": "fp16 fp8 nvfp4 fp8_2of4 nvfp4_2of4 nvfp4a16 fp4 fp16_2of4",
    "b200_hgx": "fp16 fp8 nvfp4 nvfp4a16 mxfp8 mxfp4 fp8_2of4 int8",
}


def chain(n_layers: int) -> ModelGraph:
    """Return a chain of products, hardly two of one size."""
    layers = []
    for i in range(n_layers):
        m, n, k = 64 + i % 13, 64 + 16 * (i % 97), 64 + 16 * (i % 89)
        left, right = Operand(f"x{i}", "", 0, -1), Operand(f"w{i}", f"w{i}", 1, 0, (1,))
        layers.append(Layer(f"l{i}", "Gemm", (Gemm(m, n, k, left, right),), f"y{i}", m * k, m * n))
    return ModelGraph(
        name="chain.onnx",
        nodes=(),
        constants={},
        inputs=(),
        outputs=(),
        values={},
        layers=tuple(layers),
        edges=tuple(Edge(i, i + 1, layers[i + 1].input_elements) for i in range(n_layers - 1)),
        groups=tuple(Group(layer.name, (i,)) for i, layer in enumerate(layers)),
        coverage=Coverage(1, 1, 1, 1, ()),
        batch=1,
        opset=17,
        structure_digest="0" * 64,
    )


def main() -> None:
    """Print seconds of wall clock and of this thread, the least of some repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    graph = chain(given.layers)
    for device, names in SCHEMES.items():
        space = SearchSpace("bench", tuple(map(find_scheme, names.split())))
        wall, own = [], []
        for _ in range(given.repeats):
            started, ran = time.perf_counter(), time.thread_time()
            estimate_costs(graph, space, device)
            wall.append(time.perf_counter() - started)
            own.append(time.thread_time() - ran)
        print(
            f"{device}: {given.layers} layers × {len(space.names)} schemes in {min(wall):.2f} s "
            f"({min(own):.2f} s of the thread)"
        )


if __name__ == "__main__":
    main()
