"""How well each sensitivity metric orders whole plans, and what it costs: one table for the docs.

``python -m experiments.ranking FOLDER… [-o TABLE.md]``, each FOLDER made by ``python -m experiments.models``.
Metrics see calibration samples; random plans are measured on held-out ones, once for each model and
setting (kept in FOLDER), and serve all metrics. Plans whose loss is above half of what the worst scheme
everywhere gives are saturated and left out. Losses are divergences from the fp32 model, weights
and activations quantised. *dense* is fp16, fp8 and nvfp4; *sparse* adds both with 2:4, magnitude pruned; *recovered*
the same with weights recovered from Gram matrices. ``measured`` is no metric: the plans' own losses on the calibration samples.
Seconds are processor time.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpsearch.data.batches import read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.registry import list_names
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.selftest import ceiling, draw_plans
from mpsearch.sensitivity.shared.entries import predict
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.stats.estimates import Floats, Ints
from mpsearch.stats.rank_correlation import Ranking, rank_agreement, saturated

SETTINGS = ("dense", "sparse", "recovered")
DENSE = ("fp16", "fp8", "nvfp4")
SLOW = ("eigenvalue", "hessian")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Samples that metrics see, and samples that plans are judged on."""

    calibration: int
    held_out: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one metric reached on one model."""

    model: str
    setting: str
    metric: str
    ranking: Ranking
    seconds: float
    plans: float

    def cells(self) -> list[str]:
        """Return the row's cells as text."""
        found = [
            f"{c.value:.3f} ({c.low:.2f}–{c.high:.2f})"
            for c in (self.ranking.spearman, self.ranking.spearman_best)
        ]
        return [
            self.model,
            self.setting,
            self.metric,
            *found,
            f"{self.seconds:.1f}",
            f"{self.plans:.0f}",
        ]


def measure_plans(judge: Simulator, wanted: int, store: Path) -> tuple[Ints, Floats]:
    """Random plans until ``wanted`` are not saturated, and their held-out losses; kept in ``store``."""
    if store.exists():
        with np.load(store, allow_pickle=False) as kept:
            if len(kept["losses"]) == wanted and int(kept["samples"]) == judge.n_samples:
                return kept["plans"], kept["losses"]
    top = ceiling(judge)
    plans, losses = [], []
    for plan in draw_plans(judge.allowed, 20 * wanted):
        if saturated(judge.losses(plan, [0]).mean(keepdims=True), 1.3 * top)[0]:
            continue  # hopeless on its first batch
        loss = judge.loss(plan).mean
        if not saturated(np.array([loss]), top)[0]:
            plans.append(plan)
            losses.append(loss)
        if len(plans) == wanted:
            break
    np.savez(store, plans=plans, losses=losses, samples=judge.n_samples)
    return np.array(plans), np.array(losses)


def rank_metrics(
    folder: Path, setting: str, metrics: Sequence[str], *, plans: int, sizes: Sizes, seed: int
) -> list[Row]:
    """Score every metric on one model in one setting."""
    space = read_space("npu", recovery="obs" if setting == "recovered" else None)
    if setting == "dense":
        space = replace(space, schemes=tuple(s for s in space.schemes if s.name in DENSE))
    calibration = read_batches(folder / "calibration.npz", limit=sizes.calibration)
    held_out = read_batches(folder / "held_out.npz", limit=sizes.held_out)
    shapes = {name: (1, *array.shape[1:]) for name, array in calibration.arrays.items()}
    graph = import_onnx(folder / "model.onnx", shapes=shapes)
    simulator = Simulator(graph, space, calibration, loss="kl")
    tested, losses = measure_plans(
        simulator.on_data(held_out), plans, folder / f"plans-{setting}.npz"
    )
    rows = []
    for label in metrics:
        metric, _, size = label.partition(":")
        fresh = simulator.on_data(calibration)  # each pays for all that it measures
        started = time.process_time()
        if metric == "measured":
            predicted, cost = np.array([fresh.loss(plan).mean for plan in tested]), float(plans)
        else:
            table = score_sensitivity(fresh, metric=metric, budget=size or None, seed=seed)
            predicted, cost = predict(table, tested), table.cost_plans
        spent = time.process_time() - started
        ranking = rank_agreement(predicted, losses, seed=seed)
        rows.append(Row(folder.resolve().name, setting, label, ranking, spent, cost))
        print(" | ".join(rows[-1].cells()), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.ranking", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path, metavar="TABLE.md")
    parser.add_argument("--plans", type=int, default=300)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--held-out-samples", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--metrics", nargs="+", metavar="METRIC[:full]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = [name for name in list_names("metrics") if name not in SLOW]
    metrics = arguments.metrics or [*every, "calibrated:full", "measured"]
    rows = [
        row
        for folder in arguments.folders
        for setting in arguments.settings
        for row in rank_metrics(
            folder,
            setting,
            metrics,
            plans=arguments.plans,
            sizes=Sizes(arguments.samples, arguments.held_out_samples),
            seed=arguments.seed,
        )
    ]
    head = ["model", "schemes", "metric", "Spearman", "best 20 %", "CPU seconds", "evaluations"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
