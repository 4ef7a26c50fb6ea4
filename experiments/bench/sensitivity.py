"""How long the metrics take: a 21-layer residual net trained on scikit-learn's digits, 512 images.

``python -m experiments.bench.sensitivity [METRIC…]``. 16 × 16 × 1 inputs, widths 16 to 128, 701 k parameters, two threads, three
formats with nvfp4 among them. Times are processor and wall-clock seconds of one scoring, simulator made beforehand.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.schemes import find_scheme
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace

WIDTHS = (16, 32, 64, 128)
DEFAULT = (
    "fisher",
    "sqnr",
    "output_perturbation",
    "gradient",
    "information",
    "gauss_newton",
    "perturbation",
    "model_output_perturbation",
)


class Block(nn.Module):
    """Two convolutions with a shortcut, one by one where the width changes."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        stride = 1 if cin == cout else 2
        self.one = nn.Conv2d(cin, cout, 3, stride, 1)
        self.two = nn.Conv2d(cout, cout, 3, 1, 1)
        self.cut = nn.Conv2d(cin, cout, 1, stride) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, [n, cout, h, w]."""
        y = self.two(F.relu(self.one(x)))
        return F.relu(y + (x if self.cut is None else self.cut(x)))


class Net(nn.Module):
    """Stem, two blocks a width, mean over positions, ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTHS[0], 3, 1, 1)
        before = (WIDTHS[0], *WIDTHS)
        pairs = [(a, b) for a, w in zip(before, WIDTHS, strict=False) for a, b in ((a, w), (w, w))]
        self.blocks = [Block(a, b) for a, b in pairs]
        self.body = nn.Sequential(*self.blocks)
        self.head = nn.Linear(WIDTHS[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, 10] logits."""
        x = self.body(F.relu(self.stem(x)))
        return self.head(x.mean((2, 3)))


def train(images: Tensor, labels: Tensor, *, epochs: int = 6) -> Net:
    """Train with Adam; a minute on two threads."""
    torch.manual_seed(0)
    net = Net()
    for block in net.blocks:
        nn.init.zeros_(block.two.weight)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimiser.step()
    return net.eval()


def write(net: Net, path: Path) -> None:
    """Write the net as ONNX, node by node."""
    nodes, weights = [], []

    def conv(name: str, layer: nn.Conv2d, x: str) -> str:
        for part, tensor in (("w", layer.weight), ("b", layer.bias)):
            assert tensor is not None
            weights.append(numpy_helper.from_array(tensor.detach().numpy(), f"{name}.{part}"))
        pad, stride = [layer.padding[0]] * 4, list(layer.stride)
        inputs = [x, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [name], name, pads=pad, strides=stride))
        return name

    def apply(op: str, inputs: list[str], output: str) -> str:
        nodes.append(helper.make_node(op, inputs, [output], output))
        return output

    x = apply("Relu", [conv("stem", net.stem, "x")], "stem.relu")
    for i, block in enumerate(net.blocks):
        y = apply("Relu", [conv(f"b{i}.one", block.one, x)], f"b{i}.relu")
        y = conv(f"b{i}.two", block.two, y)
        cut = x if block.cut is None else conv(f"b{i}.cut", block.cut, x)
        x = apply("Relu", [apply("Add", [y, cut], f"b{i}.sum")], f"b{i}.out")
    x = apply("Flatten", [apply("GlobalAveragePool", [x], "pool")], "flat")
    weights.append(numpy_helper.from_array(net.head.weight.detach().numpy(), "head.w"))
    weights.append(numpy_helper.from_array(net.head.bias.detach().numpy(), "head.b"))
    nodes.append(helper.make_node("Gemm", [x, "head.w", "head.b"], ["y"], "head", transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.sensitivity")
    parser.add_argument("metrics", nargs="*", default=DEFAULT)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.interpolate(images, size=(16, 16), mode="bilinear")
    net = train(images[512:], torch.tensor(digits.target)[512:])
    with torch.no_grad():
        right = float(
            (net(images[:512]).argmax(1) == torch.tensor(digits.target)[:512]).float().mean()
        )
    size = sum(p.numel() for p in net.parameters())
    print(f"{size} parameters, held-out accuracy {right:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        write(net, path)
        graph = import_onnx(path, shapes={"x": (1, 1, 16, 16)})
        space = SearchSpace("bench", tuple(map(find_scheme, ("fp16", "fp8", "nvfp4"))))
        batches = make_batches({"x": images[: arguments.images].numpy()}, batch_size=128)
        print(f"{len(graph.layers)} layers, {len(batches)} images, {len(space.schemes)} formats")
        for metric in arguments.metrics:
            times = []
            for _ in range(arguments.repeats):
                simulator = Simulator(graph, space, batches)  # nothing is measured or simulated yet
                wall, processor = time.perf_counter(), time.process_time()
                table = score_sensitivity(simulator, metric=metric)
                times.append((time.perf_counter() - wall, time.process_time() - processor))
            best = np.min(times, axis=0)
            print(f"{metric:20} {best[0]:6.2f} s  {best[1]:6.2f} s of processor  {table.unit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
