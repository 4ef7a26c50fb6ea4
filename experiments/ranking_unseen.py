"""How well a metric orders plans on models that were not looked at while it was tuned.

``python -m experiments.ranking_unseen FOLDER [--half tune|untouched] [--models NAME …] [--spaces npu …] [-o CELLS.json]``:
FOLDER holds one folder a model, made by ``python -m experiments.models NAME`` or ``python -m experiments.models.trained
NAME``; those that are missing are left out and named. Plans are random ones and plans along the front that
one-at-a-time losses predict, with random deviations, all below half of saturation. They are measured once
on calibration and on held-out samples and kept in FOLDER/NAME/unseen-SPACE.npz. Beside each metric stand
the full one-at-a-time sum and the ceiling: the plans' own calibration losses. Seconds are processor time,
over those of ``fisher``, the least of a few runs each where they are short. CELLS.json keeps what was found, cell by cell (a model in a space); cells found before
stay unless they are found again, and medians are over all of them.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpsearch.cost.device import read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.data.batches import Batches, read_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.problem.build import build_problem
from mpsearch.problem.tables import Table
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
_TIMED_S, _TIMED_RUNS = 5.0, 5  # short runs are timed so often
CEILING, ONE_AT_A_TIME = "*the plans themselves*", "one at a time"


@dataclass(frozen=True, slots=True)
class Judged:
    """Plans below half of saturation [P, G], their losses [P] on both sets of samples, sums of one-at-a-time losses."""

    plans: Ints
    calibration: Floats
    held_out: Floats
    summed: Floats


@dataclass(frozen=True, slots=True)
class Found:
    """How one metric ranks the plans of one cell; ``times`` those of ``fisher``, None where nothing is scored."""

    model: str
    space: str
    samples: tuple[int, int]
    plans: int
    metric: str
    spearman: float
    best_fifth: float
    times: float | None


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
    simulator: Simulator, held_out: Simulator, space: str, wanted: tuple[int, int], store: Path
) -> Judged:
    """Return so many random plans and so many around a front with their losses; kept in ``store``.

    The front is that of latency and the sums of one-at-a-time losses.
    """
    key = np.array([*wanted, simulator.n_samples, held_out.n_samples])
    if store.exists():
        with np.load(store, allow_pickle=False) as kept:
            if np.array_equal(kept["key"], key) and "summed" in kept:
                return Judged(*(kept[name] for name in Judged.__slots__))
    full = score_sensitivity(simulator, metric="perturbation")
    costs = estimate_costs(simulator.graph, simulator.space, read_device(DEVICES[space]))
    front = find("searchers", "hull").search(Task(build_problem(full, costs))).assignments
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
    found = Judged(np.array(plans), known_losses, held_losses, predict(full, np.array(plans)))
    np.savez(store, key=key, **{name: getattr(found, name) for name in Judged.__slots__})
    return found


def rank_model(
    folder: Path, space: str, metrics: list[str], samples: tuple[int, int], wanted: tuple[int, int]
) -> list[Found]:
    """Return what each metric is worth on one model in one space."""
    calibration = read_batches(folder / "calibration.npz", limit=samples[0])
    calibration = replace(calibration, labels=None)  # divergences from the fp32 model
    held_out = replace(read_batches(folder / "held_out.npz", limit=samples[1]), labels=None)
    shapes = {name: (1, *array.shape[1:]) for name, array in calibration.arrays.items()}
    graph = import_onnx(folder / "model.onnx", shapes=shapes)
    simulator = Simulator(graph, read_space(space), calibration)
    judge = simulator.on_data(held_out)
    store = folder / f"unseen-{space}.npz"
    judged = judge_plans(simulator, judge, space, wanted, store)
    predicted: dict[str, tuple[Floats, float | None]] = {
        CEILING: (judged.calibration, None),
        ONE_AT_A_TIME: (judged.summed, None),
    }
    for metric in ("fisher", "calibrated"):  # kernels are compiled when they are first called
        score_sensitivity(simulator.on_data(calibration), metric=metric)
    fisher_s = 0.0
    for metric in dict.fromkeys(["fisher", *metrics]):
        table, spent = time_metric(simulator, calibration, metric)
        fisher_s = spent if metric == "fisher" else fisher_s
        predicted[metric] = predict(table, judged.plans), spent / fisher_s
    found = []
    for metric, (sums, times) in predicted.items():
        ranking = rank_agreement(sums, judged.held_out)
        seen = (simulator.n_samples, judge.n_samples)
        best, over = ranking.spearman_best.value, ranking.spearman.value
        known = None if times is None else round(times, 2)
        one = (folder.name, space, seen, len(judged.plans), metric)
        found.append(Found(*one, round(over, 4), round(best, 4), known))
        print(" | ".join(cells_of(found[-1])), flush=True)
    return found


def time_metric(simulator: Simulator, calibration: Batches, metric: str) -> tuple[Table, float]:
    """Return a metric's table and its processor seconds; each run pays for all that it measures."""
    spent: list[float] = []
    while sum(spent) < _TIMED_S and len(spent) < _TIMED_RUNS:
        fresh = simulator.on_data(calibration)
        started = time.process_time()
        table = score_sensitivity(fresh, metric=metric)
        spent.append(time.process_time() - started)
    return table, min(spent)


def cells_of(found: Found) -> list[str]:
    """Return the cells of a row of the table."""
    times = "" if found.times is None else f"{found.times:.1f}"
    values = [f"{found.spearman:.3f}", f"{found.best_fifth:.3f}"]
    return [found.model, found.space, found.metric, *values, times]


def summarise(found: list[Found]) -> list[list[str]]:
    """Return one row a metric: medians over models and spaces, and the least Spearman of any."""
    rows = []
    for metric in dict.fromkeys(one.metric for one in found):
        values = np.array([(x.spearman, x.best_fifth) for x in found if x.metric == metric])
        middle = [f"{x:.3f}" for x in np.median(values, axis=0)]
        times = [x.times for x in found if x.metric == metric and x.times is not None]
        most = f"{max(times):.1f} at most" if times else ""
        rows.append(["median", f"least {values[:, 0].min():.3f}", metric, *middle, most])
    return rows


def read_found(path: Path | None) -> list[Found]:
    """Return what ``path`` holds; nothing where there is no such file."""
    if path is None or not path.exists():
        return []
    read = json.loads(path.read_text(encoding="utf-8"))
    return [Found(**{**one, "samples": tuple(one["samples"])}) for one in read]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ranking_unseen", description=__doc__
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--half", choices=HALVES, default="untouched")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="some of the half only")
    parser.add_argument("--spaces", nargs="+", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--metrics", nargs="+", default=["calibrated"], metavar="METRIC")
    parser.add_argument(
        "--samples", type=int, nargs=2, default=(64, 128), metavar=("CALIBRATION", "HELD_OUT")
    )
    parser.add_argument(
        "--plans", type=int, nargs=2, default=(100, 50), metavar=("RANDOM", "FRONT")
    )
    parser.add_argument("-o", "--out", type=Path, metavar="CELLS.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = read_found(arguments.out)
    for name in arguments.models or HALVES[arguments.half]:
        folder = arguments.folder / name
        if not (folder / "model.onnx").exists():
            print(f"{name}: left out, no model.onnx in {folder.name}", file=sys.stderr)
            continue
        for space in arguments.spaces:
            wanted, samples = tuple(arguments.plans), tuple(arguments.samples)
            new = rank_model(folder, space, arguments.metrics, samples, wanted)
            found = [x for x in found if (x.model, x.space) != (name, space)] + new
            if arguments.out is not None:
                text = json.dumps([asdict(one) for one in found], indent=1) + "\n"
                arguments.out.write_text(text, encoding="utf-8")
    head = ["model", "space", "metric", "Spearman", "best fifth", "time / fisher"]
    lines = [head, ["---"] * len(head), *map(cells_of, found), *summarise(found)]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
