"""How well a metric orders plans on models that were not looked at while it was tuned.

``python -m experiments.ranking_unseen FOLDER [--half tune|untouched] [--spaces npu …] [-o TABLE.md]``: FOLDER holds
one folder a model, made by ``python -m experiments.models NAME`` or ``python -m experiments.models.trained NAME``;
those that are missing are left out and named. Plans are random ones and plans along the front that
one-at-a-time losses predict, with random deviations, all below half of saturation. They are measured once
on calibration and on held-out samples and kept in FOLDER/NAME/unseen-SPACE.npz. Beside each metric stand
the full one-at-a-time sum and the ceiling: the plans' own calibration losses. Seconds are processor time,
over those of ``fisher``.
"""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpsearch.cost.device import read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.data.batches import read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.problem.build import build_problem
from mpsearch.registry import find
from mpsearch.search.task import Task
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.selftest import ceiling, draw_plans
from mpsearch.sensitivity.shared.entries import finite_loss, predict
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.stats.estimates import Bools, Floats, Ints
from mpsearch.stats.rank_correlation import rank_agreement

HALVES = {
    "tune": ("orientation", "recogniser", "minilm", "residual", "transformer"),
    "untouched": ("captcha", "basic_pitch", "separable", "mixer", "denoiser"),
}
"""Declared before anything was tuned; a model that was looked at moves to the first half for good."""
DEVICES = {"npu": "npu_200tops", "blackwell": "b200_hgx", "hopper": "h100_sxm5_80gb"}
_SHARES = (0.0, 0.05, 0.15, 0.3)  # of a front plan's groups that are drawn anew
_TRIES = 6  # plans drawn for one that is wanted


@dataclass(frozen=True, slots=True)
class Judged:
    """Plans below half of saturation [P, G] and their losses [P] on both sets of samples."""

    plans: Ints
    calibration: Floats
    held_out: Floats


def deviate(plan: Ints, allowed: Bools, rng: np.random.Generator) -> Ints:
    """Return ``plan`` [G] with a random share of its groups drawn anew from one distribution of schemes."""
    n_schemes = allowed.shape[1]
    weights = rng.dirichlet(np.full(n_schemes, 0.5)) + 1e-9
    changed = plan.copy()
    for g in np.flatnonzero(rng.random(len(plan)) < rng.choice(_SHARES)):
        chances = np.where(allowed[g], weights, 0.0)
        changed[g] = rng.choice(n_schemes, p=chances / chances.sum())
    return changed


def judge_plans(
    simulator: Simulator, held_out: Simulator, front: Ints, wanted: tuple[int, int], store: Path
) -> Judged:
    """Return so many random plans and so many around ``front`` [F, G] with their losses; kept in ``store``."""
    if store.exists():
        with np.load(store, allow_pickle=False) as kept:
            if tuple(kept["key"]) == (*wanted, simulator.n_samples, held_out.n_samples):
                return Judged(kept["plans"], kept["calibration"], kept["held_out"])
    rng = np.random.default_rng(77)
    n_random, n_front = wanted
    drawn = draw_plans(simulator.allowed, _TRIES * n_random, seed=1234)
    around = [
        deviate(front[rng.integers(len(front))], simulator.allowed, rng)
        for _ in range(_TRIES * n_front)
    ]
    limits = 0.5 * ceiling(simulator), 0.5 * ceiling(held_out)
    plans, losses = list[Ints](), list[tuple[float, float]]()
    for pool, count in ((list(drawn), n_random), (around, n_front)):
        left = count
        for plan in pool:
            if left == 0:
                break
            known = finite_loss(simulator, plan)
            if known is None or known > 1.2 * limits[0]:  # held-out losses are near it
                continue
            judged = finite_loss(held_out, plan)
            if judged is None or judged > limits[1]:
                continue
            plans.append(plan)
            losses.append((known, judged))
            left -= 1
    known_losses, held_losses = np.array(losses).T
    key = np.array([*wanted, simulator.n_samples, held_out.n_samples])
    np.savez(store, plans=plans, calibration=known_losses, held_out=held_losses, key=key)
    return Judged(np.array(plans), known_losses, held_losses)


def rank_model(
    folder: Path, space: str, metrics: list[str], *, samples: int, wanted: tuple[int, int]
) -> list[list[str]]:
    """Return one row of cells a metric for one model in one space."""
    calibration = read_batches(folder / "calibration.npz", limit=samples)
    calibration = replace(calibration, labels=None)  # divergences from the fp32 model
    held_out = replace(read_batches(folder / "held_out.npz", limit=samples), labels=None)
    shapes = {name: (1, *array.shape[1:]) for name, array in calibration.arrays.items()}
    graph = import_onnx(folder / "model.onnx", shapes=shapes)
    simulator = Simulator(graph, read_space(space), calibration)
    full = score_sensitivity(simulator, metric="perturbation")
    costs = estimate_costs(graph, simulator.space, read_device(DEVICES[space]))
    front = find("searchers", "hull").search(Task(build_problem(full, costs))).assignments
    judge = simulator.on_data(held_out)
    store = folder / f"unseen-{space}.npz"
    judged = judge_plans(simulator, judge, front, wanted, store)
    found: dict[str, tuple[Floats, float | None]] = {
        "*the plans themselves*": (judged.calibration, None),
        "one at a time": (predict(full, judged.plans), None),
    }
    fisher_s = 0.0
    for metric in ["fisher", *metrics]:
        fresh = simulator.on_data(calibration)  # each pays for all that it measures
        started = time.process_time()
        table = score_sensitivity(fresh, metric=metric)
        spent = time.process_time() - started
        fisher_s = spent if metric == "fisher" else fisher_s
        found[metric] = predict(table, judged.plans), spent / fisher_s
    rows = []
    for metric, (predicted, times) in found.items():
        ranking = rank_agreement(predicted, judged.held_out)
        values = [f"{c.value:.3f}" for c in (ranking.spearman, ranking.spearman_best)]
        cost = "" if times is None else f"{times:.1f}"
        rows.append([folder.name, space, metric, *values, cost])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def medians(rows: list[list[str]]) -> list[list[str]]:
    """Return one row a metric: medians over models and spaces, and the least Spearman of any."""
    found = []
    for metric in dict.fromkeys(row[2] for row in rows):
        values = np.array([[float(x) for x in row[3:5]] for row in rows if row[2] == metric])
        middle = [f"{x:.3f}" for x in np.median(values, axis=0)]
        found.append(["median", f"least {values[:, 0].min():.3f}", metric, *middle, ""])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ranking_unseen", description=__doc__
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--half", choices=HALVES, default="untouched")
    parser.add_argument("--spaces", nargs="+", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--metrics", nargs="+", default=["calibrated"], metavar="METRIC")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--plans", type=int, nargs=2, default=(50, 25), metavar=("RANDOM", "FRONT"))
    parser.add_argument("-o", "--out", type=Path, metavar="TABLE.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    for name in HALVES[arguments.half]:
        folder = arguments.folder / name
        if not (folder / "model.onnx").exists():
            print(f"{name}: left out, no model.onnx in {folder.name}", file=sys.stderr)
            continue
        for space in arguments.spaces:
            wanted = (arguments.plans[0], arguments.plans[1])
            metrics = [m for m in arguments.metrics if m != "fisher"]
            rows += rank_model(folder, space, metrics, samples=arguments.samples, wanted=wanted)
    head = ["model", "space", "metric", "Spearman", "best fifth", "time / fisher"]
    lines = [head, ["---"] * len(head), *rows, *medians(rows)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
