"""Every search method on one real model: hypervolume of held-out loss and latency against compute.

Run: python experiments/search_methods.py MODEL CALIBRATION HELD_OUT --out curves.json [--figure docs/search_methods.svg]
Methods that read the sensitivity table start at what the table cost; compute is the processor time of
evaluations in units of one plan's. Interrupted runs go on: finished curves stay in the output file.
"""

import argparse
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpsearch as mp
from mpsearch import registry
from mpsearch.pareto import hypervolume, non_dominated

# name: (searcher, its own settings, whether it reads the sensitivity table)
METHODS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "refine": ("refine", {}, True),
    "exact": ("exact", {}, True),
    "greedy": ("greedy", {}, True),
    "nsga2 seeded": ("nsga2", {"seeded": True}, True),
    "nsga2": ("nsga2", {"seeded": False}, False),
    "nsga3": ("nsga3", {"seeded": False}, False),
    "de": ("de", {"seeded": False}, False),
    "optuna seeded": ("optuna", {"seeded": True}, True),
    "optuna": ("optuna", {"seeded": False}, False),
    "relaxed": ("relaxed", {"seeded": False}, False),
    "relaxed seeded": ("relaxed", {"seeded": True}, True),
    "policy": ("policy", {}, True),
    "random": ("random", {}, False),
}
CHECKPOINTS = 14


@dataclass
class Meter:
    """An evaluator that notes what was measured, and the processor time that measuring took."""

    simulator: Any
    plan_s: float
    spent_s: float = 0.0
    rows: list[tuple[float, tuple[int, ...], float]] = field(default_factory=list)

    def evaluate(self, assignments: Any, *, fraction: float = 1.0) -> Any:
        """Measure, and note the time."""
        start = time.process_time()
        losses = self.simulator.evaluate(assignments, fraction=fraction)
        self.spent_s += time.process_time() - start
        if fraction == 1.0:
            for row, loss in zip(assignments, losses, strict=True):
                self.rows.append((self.spent_s / self.plan_s, tuple(row.tolist()), loss.mean))
        return losses

    def loss_and_gradient(self, probabilities: Any) -> Any:
        """Differentiate, and note the time."""
        start = time.process_time()
        result = self.simulator.loss_and_gradient(probabilities)
        self.spent_s += time.process_time() - start
        return result


def curve(
    meter: Meter,
    problem: mp.Problem,
    held_out: Any,
    reference: Any,
    start: float,
    cache: dict[Any, float],
) -> list[tuple[float, float]]:
    """Return (plan-equivalents, held-out hypervolume) of the fronts that were best as measured."""
    spent = np.array([row[0] for row in meter.rows])
    rows = np.array([row[1] for row in meter.rows])
    values = np.stack(
        [problem.evaluate(rows)["latency_us"], np.array([row[2] for row in meter.rows])], axis=1
    )
    points = []
    for end in np.unique(np.geomspace(1, len(rows), CHECKPOINTS).astype(int)):
        front = np.flatnonzero(non_dominated(values[:end]))
        for index in front:
            key = meter.rows[index][1]
            if key not in cache:
                cache[key] = held_out.evaluate(rows[index][None])[0].mean
        losses = [cache[meter.rows[index][1]] for index in front]
        tested = np.stack([values[front, 0], losses], axis=1)
        points.append((start + float(spent[end - 1]), hypervolume(tested, reference)))
    return points


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all methods and seeds that the output file does not hold yet."""
    calibration = mp.read_batches(options.calibration, limit=options.samples)
    shapes = {name: (None, *array.shape[1:]) for name, array in calibration.arrays.items()}
    graph = mp.import_onnx(options.model, shapes=shapes)
    space = mp.read_space(options.space)
    simulator = mp.Simulator(graph, space, calibration)
    held_out = simulator.on_data(mp.read_batches(options.held_out, limit=options.held_out_samples))
    costs = mp.estimate_costs(graph, space, mp.read_device(options.device), batch=options.batch)
    out = Path(options.out)
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"curves": {}}
    base = np.full(simulator.allowed.shape[0], space.index(space.base))
    simulator.evaluate(base[None])
    start = time.process_time()
    table = mp.score_sensitivity(simulator, metric=options.metric)
    table_s = time.process_time() - start
    rng = np.random.default_rng(0)
    draws = [
        np.array([rng.choice(np.flatnonzero(row)) for row in simulator.allowed]) for _ in range(8)
    ]
    start = time.process_time()
    simulator.evaluate(np.stack(draws))
    plan_s = (time.process_time() - start) / len(draws)
    problem = mp.build_problem(table, costs)
    slowest = problem.evaluate(base[None])["latency_us"][0]
    reference = np.array([slowest * 1.001, options.reference_loss])
    known |= {"plan_s": plan_s, "table_plans": table_s / plan_s, "reference": reference.tolist()}
    print(f"one plan {plan_s:.2f} s; the table {table_s / plan_s:.0f} plans")
    cache: dict[Any, float] = {}
    for seed in range(options.seeds):
        for name in options.methods or METHODS:
            searcher, settings, reads = METHODS[name]
            label = f"{name}/{seed}"
            if label in known["curves"]:
                continue
            # a fresh simulator: a search must not profit from what another one measured
            fresh = simulator.on_data(calibration)
            meter = Meter(fresh, plan_s)
            budget = (
                options.budget
                if name in ("nsga2", "nsga3", "de", "optuna", "random")
                else (options.small_budget)
            )
            if searcher == "relaxed":
                budget = options.budget
            run = registry.find("searchers", searcher)
            with suppress(KeyboardInterrupt):
                run(problem, evaluator=meter, budget=budget, seed=seed, **settings)
            points = curve(meter, problem, held_out, reference, known["table_plans"] * reads, cache)
            known["curves"][label] = points
            out.write_text(json.dumps(known))
            print(
                f"{label:20s} {points[-1][0]:7.0f} plans {points[-1][1] / reference.prod():.4f}",
                flush=True,
            )
    return known


def draw(known: dict[str, Any], path: Path) -> None:
    """Draw the mean curve of each method over its seeds."""
    from matplotlib import pyplot

    total = float(np.prod(known["reference"]))
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name in METHODS:
        curves = [
            np.array(c) for label, c in known["curves"].items() if label.split("/")[0] == name
        ]
        if not curves:
            continue
        grid = np.geomspace(min(c[0, 0] for c in curves), max(c[-1, 0] for c in curves), 60)
        mean = np.mean(
            [np.interp(grid, c[:, 0], c[:, 1] / total, left=0.0) for c in curves], axis=0
        )
        axes.plot(grid, mean, label=name, linewidth=2.5 if name == "refine" else 1.2)
    axes.set_xscale("log")
    axes.set_xlabel("compute, in measurements of one plan (sensitivity included)")
    axes.set_ylabel("hypervolume of held-out loss and latency")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--out", required=True, help="JSON file of curves")
    parser.add_argument("--figure", type=Path, help="picture of the curves (svg, png, pdf)")
    parser.add_argument("--space", default="npu")
    parser.add_argument("--device", default="npu_200tops")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--metric", default="perturbation")
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--held-out-samples", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=1000, help="plans of methods without a table")
    parser.add_argument("--small-budget", type=int, default=100, help="plans of methods with one")
    parser.add_argument("--reference-loss", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="*", choices=METHODS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = compare(options)
    if options.figure:
        draw(known, options.figure)


if __name__ == "__main__":
    main()
