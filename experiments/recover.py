"""What recovery wins back without training, on data that neither made nor chose it.

Run: python -m experiments.recover orientation|minilm|language|wide [SCHEME …] [-o results.json]

Each row is a uniform plan (layers that cannot take the scheme: fp8, else fp16), or a plan of the exact front at so many bits:
its loss as rounded plainly, its loss recovered with ``methods="auto"``, and seconds a layer. ``orientation`` draws 250 lines to recover with
and 800 others to score on; ``minilm`` reads the folder that ``python -m experiments.models minilm -o FOLDER`` wrote (``--folder``);
``language`` trains a small Llama-like model of characters first, on the descriptions in ``experiments/models/data``. ``wide`` is a
perceptron of 512 channels, drawn with ``--seed``, that has 16 samples to recover with; ``--lines 16`` does the same to ``orientation``.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpsearch as mp
from experiments.models.llama import CHARACTERS, read_text, single_out, train
from mpsearch.data.batches import Batches, make_batches
from mpsearch.demo.demo import cache_folder, fetch_model
from mpsearch.demo.text_lines import orientation_arrays
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.torch_export import import_torch
from mpsearch.recovery.recover import FewSamplesWarning, RecoveryResult, recover
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Ints

_SCHEMES = {
    "orientation": (
        "nvfp4", "nvfp4a16", "w4a16", "mxfp4", "fp8", "int8", "fp8_2of4", "fp16_2of4", "nvfp4_2of4", "5.5", "4.9",
    ),
    "minilm": ("nvfp4", "w4a16", "fp8_2of4"),
    "language": ("nvfp4", "nvfp4a16", "w4a16", "int8"),
    "wide": (
        "nvfp4", "nvfp4a16", "w4a16", "mxfp4", "fp8", "int8", "fp8_2of4", "fp16_2of4", "nvfp4_2of4",
    ),
}  # fmt: skip
_WIDTH, _FEW = 512, 16
_LINES = ((250, 7001), (800, 7002))  # number and seed: to recover with, to score on
_SCORED = 96  # lines that the table of a front is scored on
_PLANS = {
    "5.5": ("fp16", "fp8", "nvfp4"),
    "4.9": ("fp16", "fp8", "nvfp4", "fp8_2of4", "nvfp4_2of4"),
}
"""Effective bits of a plan of the exact front, to the schemes that it may use."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model with data to recover with and others to score on."""

    graph: ModelGraph
    calibration: Batches
    unseen: Batches
    labels: Batches | None = None


def orientation(lines: int) -> Case:
    """Return the demo's model on lines drawn from seeds of their own, so many to recover with."""
    graph = mp.import_onnx(fetch_model(cache_folder()), shapes={"x": (None, 3, 48, 192)})
    drawn = [orientation_arrays(n, seed=seed) for n, seed in ((lines, _LINES[0][1]), *_LINES[1:])]
    unseen = make_batches({"x": drawn[1]["x"]}, batch_size=100)
    labels = make_batches(dict(drawn[1]), batch_size=100)
    return Case(graph, make_batches({"x": drawn[0]["x"]}), unseen, labels)


def minilm(folder: Path) -> Case:
    """Return the sentence encoder that stands in ``folder``."""
    graph = mp.import_onnx(folder / "model.onnx")
    held_out = mp.read_batches(folder / "held_out.npz")
    return Case(graph, mp.read_batches(folder / "calibration.npz"), held_out.take(400))


def language(steps: int, seed: int, *, outliers: bool = False) -> Case:
    """Return a small Llama-like model trained here, and text that it was not trained on."""
    module, held_out = train(read_text(), steps=steps, seed=seed)
    if outliers:
        module = single_out(module)
    ids = torch.zeros(1, held_out.shape[1], dtype=torch.int64)
    graph = import_torch(module, {"ids": ids})
    parts = held_out[:32], held_out[32:96]
    assert held_out.max() < CHARACTERS
    calibration, unseen = (make_batches({"ids": part}, batch_size=16) for part in parts)
    return Case(graph, calibration, unseen)


def wide(seed: int) -> Case:
    """Return a perceptron of 512 channels whose correlated inputs few samples cannot tell from each other."""
    torch.manual_seed(seed)
    sizes = (_WIDTH, _WIDTH, _WIDTH, 64)
    layers = [
        part for a, b in pairwise(sizes) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())
    ][:-1]
    module = torch.nn.Sequential(*layers).eval()
    mixing = torch.randn(_WIDTH // 2, _WIDTH) / (_WIDTH // 2) ** 0.5
    x = torch.randn(_FEW + 400, _WIDTH // 2) @ mixing + 0.3 * torch.randn(_FEW + 400, _WIDTH)
    graph = import_torch(module, {"input": x[:1]})
    parts = (x[:_FEW].numpy(), x[_FEW:].numpy())
    calibration, unseen = (make_batches({"input": part}, batch_size=16) for part in parts)
    return Case(graph, calibration, unseen)


def uniform(case: Case, name: str) -> tuple[Simulator, Ints]:
    """Return a simulator and the plan in which every layer that may takes ``name``."""
    names = tuple(dict.fromkeys(("fp16", "fp8", name)))
    simulator = _simulate(case, names)
    wanted, instead = names.index(name), names.index("fp8")
    weighted = [
        any(case.graph.layers[i].has_weight for i in group.layers) for group in case.graph.groups
    ]
    found = [
        0 if not has else wanted if row[wanted] else instead if row[instead] else 0
        for has, row in zip(weighted, simulator.allowed, strict=True)
    ]
    return simulator, np.array(found)


def of_front(case: Case, bits: str) -> tuple[Simulator, Ints]:
    """Return a simulator and the plan of least predicted loss at so many effective bits."""
    simulator = _simulate(case, _PLANS[bits])
    costs = mp.estimate_costs(case.graph, simulator.space, mp.read_device("npu_200tops"))
    few = simulator.on_data(case.calibration.take(_SCORED))
    table = mp.score_sensitivity(few, metric="kl")
    front = mp.find_front(
        mp.build_problem(table, costs), method="exact", objectives=("weight_bytes", "loss")
    )
    point = mp.choose_point(front, limits={"effective_bits": float(bits)})
    return simulator, np.array(point.assignment)


def _simulate(case: Case, names: Sequence[str]) -> Simulator:
    space = SearchSpace("experiment", tuple(map(find_scheme, names)), "fp16")
    return Simulator(case.graph, space, case.calibration)


def row(case: Case, name: str) -> dict[str, Any]:
    """Return what one scheme or plan loses before and after."""
    simulator, assignment = of_front(case, name) if name in _PLANS else uniform(case, name)
    began, cpu = time.perf_counter(), time.process_time()
    result = recover(simulator, assignment)
    layers = sum(layer.has_weight for layer in case.graph.layers)
    found: dict[str, Any] = {"plan": name, "unit": simulator.unit}
    found["s_a_layer"] = (time.perf_counter() - began) / layers
    found["cpu_s_a_layer"] = (time.process_time() - cpu) / layers
    found |= _measure(simulator.on_data(case.unseen), assignment, result, "loss")
    if case.labels is not None:
        found |= _measure(simulator.on_data(case.labels), assignment, result, "accuracy")
    return found | {
        "methods": list(result.methods),
        "judged": {"+".join(names): loss.mean for names, loss in result.tried.items()},
    }


def _measure(
    simulator: Simulator, assignment: Ints, result: RecoveryResult, what: str
) -> dict[str, float]:
    both = {"plain": simulator, "recovered": simulator.change(result.recovered.changes)}
    if what == "loss":
        return {f"{key}_loss": one.loss(assignment).mean for key, one in both.items()}
    return {
        f"{key}_accuracy": float(one.scores(assignment)["accuracy"].mean())
        for key, one in both.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=tuple(_SCHEMES))
    parser.add_argument("plans", nargs="*", metavar="SCHEME", help="default: those of the docs")
    parser.add_argument("--folder", type=Path, help="of minilm")
    parser.add_argument("--steps", type=int, default=400, help="of the language model's training")
    parser.add_argument(
        "--outliers", action="store_true", help="single out channels of the language model"
    )
    parser.add_argument("--lines", type=int, default=_LINES[0][0], help="of orientation")
    parser.add_argument("--seed", type=int, default=0, help="of wide, of the language model")
    parser.add_argument("-o", "--out", type=Path, help="JSON that rows are added to")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FewSamplesWarning)
    key = options.model
    if options.model == "minilm":
        if options.folder is None:
            parser.error("minilm needs --folder")
        case = minilm(options.folder)
    elif options.model == "wide":
        case, key = wide(options.seed), f"{_FEW} samples, {_WIDTH} channels, seed {options.seed}"
    elif options.model == "language":
        case = language(options.steps, options.seed, outliers=options.outliers)
        key = f"{key}, {options.steps} steps, seed {options.seed}"
        key += ", outliers" if options.outliers else ""
    else:
        case = orientation(options.lines)
        if options.lines != _LINES[0][0]:
            key = f"{key}, {options.lines} lines"
    for name in options.plans or _SCHEMES[options.model]:
        found = row(case, name)
        print(
            f"{name:12} {found['plain_loss']:.4f} -> {found['recovered_loss']:.4f}"
            + (
                f"  accuracy {found['plain_accuracy']:.3f} -> {found['recovered_accuracy']:.3f}"
                if "plain_accuracy" in found
                else ""
            )
            + f"  {'+'.join(found['methods']) or 'as it was'}, {found['cpu_s_a_layer']:.2f} s a layer",
            flush=True,
        )
        if options.out is not None:
            rows = json.loads(options.out.read_text()) if options.out.exists() else {}
            rows.setdefault(key, {})[name] = found
            options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
