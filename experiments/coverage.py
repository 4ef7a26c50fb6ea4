"""How often the true value lies within 1.96 standard errors: 90 to 97 % is what error bars promise.

``python -m experiments.coverage [FOLDER…]``, each FOLDER made by ``python -m experiments.models``. Without folders
a small network is trained on scikit-learn's digits; for that one ``hessian`` is held against the dense trace, seeds
drawing the probes. ``perturbation``, ``fisher`` and ``calibrated`` are held against the one-at-a-time loss over all
data, seeds drawing the samples; ranges stay those of the first samples, so that sampling is all that differs.
``fisher`` predicts that loss to second order only: what it is off beyond its error bar is bias.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from mpsearch.data.batches import Batches, make_batches, read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.losses.losses import sample_losses
from mpsearch.problem.tables import Table
from mpsearch.schemes import find_scheme
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.shared.backward import iterate_passes
from mpsearch.sensitivity.shared.entries import single_changes
from mpsearch.sensitivity.shared.sampling import measure_entries
from mpsearch.simulate.probe import plain_weight, simulated_weight
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Floats, estimate_mean

SCHEMES = ("fp16", "fp8", "nvfp4")
METRICS = ("perturbation", "fisher", "calibrated")
WIDTHS = (64, 24, 16, 10)
Draw = tuple[Floats, Floats]


def write_digits(path: Path) -> Floats:
    """Train a perceptron on half of the digits, write it, and return all images [1797, 64]."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
    labels = torch.tensor(digits.target)
    pairs = list(pairwise(WIDTHS))
    weights = [(torch.randn(a, b) * (2 / a) ** 0.5).requires_grad_() for a, b in pairs]
    optimiser = torch.optim.Adam(weights, 3e-3)
    for _ in range(60):
        for rows in torch.randperm(900).split(50):
            h = x[rows]
            for i, w in enumerate(weights):
                h = h @ w if i == len(weights) - 1 else F.relu(h @ w)
            optimiser.zero_grad()
            F.cross_entropy(h, labels[rows]).backward()
            optimiser.step()
    nodes, value = [], "x"
    for i in range(len(weights)):
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"h{i}"], f"fc{i}"))
        value = f"h{i}"
        if i + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"], f"relu{i}"))
            value = f"r{i}"
    nodes.append(helper.make_node("Softmax", [value], ["y"], "softmax", axis=-1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTHS[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTHS[-1]])],
        [numpy_helper.from_array(w.detach().numpy(), f"w{i}") for i, w in enumerate(weights)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return np.asarray(x.numpy(), np.float32)


def true_changes(everything: Simulator) -> tuple[Floats, Floats]:
    """[G, S, N] one-at-a-time losses of all samples, 0 where there is no entry, and [G, S] their means."""
    found = measure_entries(everything, single_changes(everything))
    changes = np.zeros((*everything.allowed.shape, everything.n_samples))
    for entry, values in found.changes.items():
        changes[entry] = values
    return changes, changes.mean(axis=-1)


def dense_traces(simulator: Simulator, table: Table) -> Floats:
    """[G, S] values of the metric ``hessian`` with exact traces, a row of the Hessian at a time."""
    values: Floats = np.zeros(table.values.shape)
    layers = {layer.gemms[0].right.value: i for i, layer in enumerate(simulator.graph.layers)}
    for done in iterate_passes(simulator, outputs=False, weights=list(layers)):
        loss = sample_losses("kl", simulator.heads, done.heads, done.target).mean()
        for name, weight in done.weights.items():
            (gradient,) = torch.autograd.grad(loss, [weight], create_graph=True)
            trace = sum(
                float(torch.autograd.grad(entry, [weight], retain_graph=True)[0].flatten()[i])
                for i, entry in enumerate(gradient.flatten())
            )
            i = layers[name]
            for s in range(1, values.shape[1]):
                known = simulator.calibrated
                change = plain_weight(known, i) - simulated_weight(known, i, s)
                error = float(change.double().square().sum())
                share = done.n / simulator.n_samples
                values[i, s] += 0.5 * share * trace / weight.numel() * error
    return values


def covered(tables: Iterator[Draw], truth: Floats) -> list[float]:
    """For each (values, stderr), the share of true values other than 0 within 1.96 standard errors."""
    some = truth != 0
    return [
        float((np.abs(values - truth) <= 1.96 * stderr)[some].mean()) for values, stderr in tables
    ]


def report(model: str, metric: str, truth: Floats, shares: Sequence[float]) -> str:
    """Print and return a row of the table."""
    mean, low, high = (100 * f(shares) for f in (np.mean, np.min, np.max))
    count = int((truth != 0).sum())
    row = f"| {model} | {metric} | {count} | {mean:.1f} % | {low:.0f}–{high:.0f} % |"
    print(row, flush=True)
    return row


def run_model(
    name: str,
    make: Callable[[Batches], Simulator],
    calibration: Batches,
    everything: Batches,
    arguments: argparse.Namespace,
) -> Iterator[str]:
    """Rows of one model."""
    calibrated = make(calibration)
    changes, truth = true_changes(calibrated.on_data(everything))
    n = len(everything)
    draws = [
        np.random.default_rng([seed, 5]).permutation(n)[: arguments.samples]
        for seed in range(arguments.seeds)
    ]

    def measured() -> Iterator[Draw]:
        for rows in draws:
            found = np.apply_along_axis(
                lambda x: np.array(estimate_mean(x)), -1, changes[..., rows]
            )
            yield found[..., 0], found[..., 1]

    def scored(metric: str) -> Iterator[Draw]:
        for seed, rows in enumerate(draws):
            arrays = {key: array[np.sort(rows)] for key, array in everything.arrays.items()}
            simulator = calibrated.on_data(make_batches(arrays))
            table = score_sensitivity(simulator, metric=metric, seed=seed)
            yield table.values, table.stderr

    for metric in arguments.metrics:
        tables = measured() if metric == "perturbation" else scored(metric)
        yield report(name, metric, truth, covered(tables, truth))


def run_digits(arguments: argparse.Namespace) -> Iterator[str]:
    """Rows of the small network, the Hessian's trace first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        x = write_digits(path)
        graph = import_onnx(path)
        space = SearchSpace("coverage", tuple(map(find_scheme, SCHEMES)))

        def make(batches: Batches) -> Simulator:
            return Simulator(graph, space, batches, loss="kl")

        few = make(make_batches({"x": x[: arguments.samples]}))
        exact = dense_traces(few, score_sensitivity(few, metric="hessian"))
        tables = (
            score_sensitivity(few, metric="hessian", seed=seed) for seed in range(arguments.seeds)
        )
        shares = covered(((t.values, t.stderr) for t in tables), exact)
        yield report("digits", "hessian (Hutchinson)", exact, shares)
        yield from run_model(
            "digits", make, make_batches({"x": x[:128]}), make_batches({"x": x}), arguments
        )


def run_folder(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """Rows of a model made by ``experiments.models``."""
    calibration = read_batches(folder / "calibration.npz", limit=128)
    held = read_batches(folder / "held_out.npz", limit=arguments.all)
    arrays = {name: held.arrays[name] for name in calibration.arrays}
    shapes = {name: (1, *array.shape[1:]) for name, array in arrays.items()}
    graph = import_onnx(folder / "model.onnx", shapes=shapes)
    space = read_space("npu")
    chosen = [s for s in space.schemes if s.name in SCHEMES or not arguments.dense]
    space = replace(space, schemes=tuple(chosen))
    calibration = make_batches(dict(calibration.arrays))
    loss = "mse" if arguments.regression else "kl"

    def make(batches: Batches) -> Simulator:
        return Simulator(graph, space, batches, loss=loss)

    yield from run_model(folder.resolve().name, make, calibration, make_batches(arrays), arguments)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.coverage", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path, metavar="TABLE.md")
    parser.add_argument("--samples", type=int, default=64, help="of each draw")
    parser.add_argument("--all", type=int, default=800, help="samples that the truth is from")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dense", action="store_true", help="no sparse schemes")
    parser.add_argument("--regression", action="store_true", help="squared error, not KL")
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    arguments = parser.parse_args()
    head = "| model | metric | entries | within 1.96 standard errors | lowest and highest seed |"
    lines = [head, "| --- " * 5 + "|"]
    print("\n".join(lines), flush=True)
    for folder in arguments.folders:
        lines += run_folder(folder, arguments)
    if not arguments.folders:
        lines += run_digits(arguments)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
