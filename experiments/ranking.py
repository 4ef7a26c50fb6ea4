"""How well each sensitivity metric orders whole plans, and what it costs: one table for the README.

``python -m experiments.ranking FOLDER… [-o TABLE.md]``, each FOLDER made by ``python -m experiments.models``.
Random plans are measured once for each model and setting and serve all metrics. Plans whose loss is
above half of what the lowest precision everywhere gives are saturated and left out. Losses are divergences from the
fp32 model over 64 calibration samples, weights and activations quantised.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpsearch.data import read_batches
from mpsearch.execute.simulator import Simulator
from mpsearch.graph.importer import import_onnx
from mpsearch.registry import list_names
from mpsearch.sensitivity.ranking import Ranking, predict, rank_agreement, saturated
from mpsearch.sensitivity.score import score_sensitivity
from mpsearch.sensitivity.selftest import ceiling, draw_plans
from mpsearch.space import read_space
from mpsearch.tables import Floats, Ints

SETTINGS = {"dense": ("fp16", "fp8", "nvfp4"), "sparse": None}
SLOW = ("eigenvalue", "hessian")


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


def measure_plans(simulator: Simulator, wanted: int, seed: int) -> tuple[Ints, Floats]:
    """Random plans until ``wanted`` are not saturated, and their losses."""
    top = ceiling(simulator)
    plans, losses, useful = [], [], 0
    for plan in draw_plans(simulator.allowed, 20 * wanted, seed=seed):
        losses.append(simulator.loss(plan).mean)
        plans.append(plan)
        useful += not saturated(np.array(losses[-1:]), top)[0]
        if useful == wanted:
            break
    keep = ~saturated(np.array(losses), top)
    return np.array(plans)[keep], np.array(losses)[keep]


def rank_metrics(
    folder: Path, setting: str, metrics: Sequence[str], *, n_plans: int, n_samples: int, seed: int
) -> list[Row]:
    """Score every metric on one model in one setting."""
    names = SETTINGS[setting]
    space = read_space("npu")
    if names is not None:
        space = replace(space, schemes=tuple(s for s in space.schemes if s.name in names))
    batches = read_batches(folder / "calibration.npz", limit=n_samples)
    shapes = {name: (1, *array.shape[1:]) for name, array in batches.arrays.items()}
    graph = import_onnx(folder / "model.onnx", shapes=shapes)
    judge = Simulator(graph, space, batches, loss="kl")
    plans, losses = measure_plans(judge, n_plans, seed)
    rows = []
    for label in metrics:
        metric, _, size = label.partition(":")
        fresh = Simulator(graph, space, batches, loss="kl")  # each pays for all that it measures
        budget = 3 * int(fresh.allowed.sum()) if size == "full" else None
        started = time.perf_counter()
        table = score_sensitivity(fresh, metric=metric, budget=budget, seed=seed)
        spent = time.perf_counter() - started
        ranking = rank_agreement(predict(table, plans), losses, seed=seed)
        rows.append(Row(folder.resolve().name, setting, label, ranking, spent, table.cost_plans))
        print(" | ".join(rows[-1].cells()), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.ranking", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path, metavar="TABLE.md")
    parser.add_argument("--plans", type=int, default=300)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--metrics", nargs="+", metavar="METRIC[:full]")
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    every = [name for name in list_names("metrics") if name not in SLOW]
    metrics = arguments.metrics or [*every, "calibrated:full"]
    rows = [
        row
        for folder in arguments.folders
        for setting in arguments.settings
        for row in rank_metrics(
            folder,
            setting,
            metrics,
            n_plans=arguments.plans,
            n_samples=arguments.samples,
            seed=arguments.seed,
        )
    ]
    head = ["model", "schemes", "metric", "Spearman", "best 20 %", "seconds", "evaluations"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
