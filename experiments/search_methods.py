"""Every search method on one real model: hypervolume of held-out loss and latency against compute.

Run:  python -m experiments.models orientation -o MODEL
      python -m experiments.search_methods MODEL --work WORK --seeds 5 --budget 1000 --out curves.json
      python -m experiments.search_figure curves.json -o docs/pictures/search_methods.svg

Compute is the processor time of evaluations in units of one random plan's, timed in the same process right
before and after; methods that read a sensitivity table start at what it took. Methods that read none are given
zeros. The front that is best as measured on the calibration data is measured again on held-out data, and its
hypervolume taken as a share of the box (least latency .. uniform base's, 0 .. loss of the fastest plan).
An interrupted run goes on: finished searches and held-out losses stay in WORK, under names that tell apart
what changes them (model, data, space, device, settings, seed, budget, machine).
"""

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpsearch as mp
from experiments.metering import HeldOut, Run, run_search, time_plans
from mpsearch import registry
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.problem.pareto import hypervolume
from mpsearch.stats.estimates import Floats


@dataclass(frozen=True)
class Method:
    """A searcher, its own settings, the metric of the table it reads (None: none), whether chance is in it."""

    searcher: str
    metric: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    chance: bool = True


UNSEEDED, SEEDED = (("seeded", False),), (("seeded", True),)
METHODS = {
    "nsga2": Method("nsga2", None, UNSEEDED),
    "refine": Method("refine", "fisher"),
    "exact": Method("exact", "perturbation", chance=False),
    "exact fisher": Method("exact", "fisher", chance=False),
    "nsga2 seeded": Method("nsga2", "fisher", SEEDED),
    "greedy": Method("greedy", "perturbation", chance=False),
    "optuna": Method("optuna", None, UNSEEDED),
    "optuna seeded": Method("optuna", "fisher", SEEDED),
    "relaxed": Method("relaxed", None, UNSEEDED),
    "relaxed seeded": Method("relaxed", "fisher", SEEDED),
    "policy": Method("policy", "fisher"),
    "nsga3": Method("nsga3", None, UNSEEDED),
    "de": Method("de", None, UNSEEDED),
    "random": Method("random"),
}
GRID = (10, 25, 30, 40, 50, 70, 100, 150, 200, 500)  # plan-equivalents


def digest(*parts: object) -> str:
    """Return what tells results apart that ``parts`` change."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


class Bench:
    """One model with its data, tables and box."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder, self.work = Path(options.model), Path(options.work)
        self.calibration = mp.read_batches(
            folder / "calibration.npz", limit=options.samples, batch_size=options.batch_size
        )
        held_out = mp.read_batches(folder / "held_out.npz", limit=options.held_out_samples)
        shapes = {key: (None, *value.shape[1:]) for key, value in self.calibration.arrays.items()}
        graph = mp.import_onnx(folder / "model.onnx", shapes=shapes)
        space = mp.read_space(options.space)
        self.simulator = mp.Simulator(graph, space, self.calibration, loss="kl")
        device = mp.read_device(options.device)
        self.costs = mp.estimate_costs(graph, space, device, batch=options.batch)
        self._setup = (
            sorted(self.simulator.fingerprint.items()),
            graph.structure_digest,
            digest_weights(graph),
            self.calibration.digest,
            space,
            device,
            options.batch,
        )
        store = self.work / f"held_out-{digest(self._setup, held_out.digest)}.sqlite"
        self.held_out = HeldOut(store, self.simulator.on_data(held_out))
        for scheme in range(len(space.schemes)):  # simulate all weights: no search pays for that
            allowed = self.simulator.allowed[:, scheme]
            self.simulator.evaluate(np.where(allowed, scheme, space.index(space.base))[None])
        self._tables: dict[str, tuple[mp.Table, float]] = {}
        base = np.full((1, len(self.simulator.groups)), space.index(space.base))
        fisher, _ = self.table("fisher")
        problem = mp.build_problem(fisher, self.costs)
        front = mp.find_front(problem, method="exact")
        fastest = front.assignments[:1]
        self.low = float(front.objectives[0, 0])
        high = float(problem.evaluate(base)["latency_us"][0])
        self.reference = np.array([high, float(self.held_out.losses(fastest)[0])])

    def fresh(self) -> mp.Simulator:
        """Return a simulator that has measured nothing."""
        return self.simulator.on_data(self.calibration)

    def table(self, metric: str) -> tuple[mp.Table, float]:
        """Return the table of ``metric`` and what it took, in plans."""
        if metric not in self._tables:
            simulator = self.fresh()
            before = time_plans(self.fresh(), 0)
            start = time.process_time()
            table = mp.score_sensitivity(simulator, metric=metric, seed=0)
            took = time.process_time() - start
            plans = took / ((before + time_plans(self.fresh(), 1)) / 2)
            print(f"table {metric}: {plans:.1f} plans", flush=True)
            self._tables[metric] = table, plans
        return self._tables[metric]

    def problem(self, metric: str | None) -> tuple[mp.Problem, float]:
        """Return the problem with the table of ``metric``, or with losses of 0, and the table's plans."""
        if metric is not None:
            table, plans = self.table(metric)
            return mp.build_problem(table, self.costs), plans
        problem = mp.build_problem(self.table("fisher")[0], self.costs)
        tables = {**problem.objectives, "loss": np.zeros(problem.allowed.shape)}
        return problem.changed(objectives=tables), 0.0

    def search(self, name: str, seed: int, budget: int) -> Run:
        """Return what a method measured, from WORK where it is kept."""
        method = METHODS[name]
        key = digest(self._setup, method, seed, budget)
        path = self.work / f"{name.replace(' ', '_')}-{seed}-{key}.npz"
        if path.exists():
            return Run.load(path)
        problem, plans = self.problem(method.metric)
        run = run_search(
            registry.find("searchers", method.searcher),
            problem,
            self.fresh(),
            budget=budget,
            seed=seed,
            table_plans=plans,
            settings=dict(method.settings),
        )
        run.save(path)
        return run

    def curve(self, run: Run) -> list[tuple[float, ...]]:
        """Return (plan-equivalents, share of the box on held-out data, on calibration data)."""
        problem, _ = self.problem(None)
        latency: Floats = problem.evaluate(run.rows)["latency_us"]
        last = float(run.spent[-1])
        box = (self.reference[0] - self.low) * self.reference[1]
        points = []
        for compute in [c for c in GRID if run.spent[0] <= c < last] + [last]:
            front = run.front(latency, compute)
            held_out = self.held_out.losses(run.rows[front])
            shares = [
                hypervolume(np.stack([latency[front], losses], axis=1), self.reference) / box
                for losses in (held_out, run.losses[front])
            ]
            points.append((round(float(compute), 2), *(round(float(share), 5) for share in shares)))
        return points


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return curves of all methods and seeds."""
    bench = Bench(options)
    names = options.methods or list(METHODS)
    found: dict[str, Any] = {}
    for name in names:
        seeds = options.seeds if METHODS[name].chance else 1
        for seed in range(seeds):
            run = bench.search(name, seed, options.budget)
            points = [] if options.run_only else bench.curve(run)
            found[f"{name}/{seed}"] = {
                "curve": points,
                "plans": len(run.losses),
                "plan_s": round(run.plan_s, 4),
                "search_s": round(run.search_s, 2),
            }
            end = f"{points[-1][1]:.4f} held-out, {points[-1][2]:.4f}" if points else ""
            print(
                f"{name:15s} {seed} {len(run.losses):5d} plans {run.spent[-1]:7.0f} plan-equivalents"
                f" {end}, {run.search_s / len(run.losses):.2f} s a plan beside",
                flush=True,
            )
    return {
        "model": Path(options.model).name,
        "groups": len(bench.simulator.groups),
        "schemes": len(bench.simulator.space.schemes),
        "samples": len(bench.calibration),
        "held_out_samples": options.held_out_samples,
        "reference": [bench.low, *bench.reference.tolist()],
        "tables": {metric: plans for metric, (_, plans) in bench._tables.items()},
        "runs": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of model.onnx, calibration.npz and held_out.npz")
    parser.add_argument("--work", required=True, help="folder of finished searches")
    parser.add_argument("--out", type=Path, help="JSON file of curves")
    parser.add_argument("--space", default="npu")
    parser.add_argument("--device", default="npu_200tops")
    parser.add_argument("--batch", type=int, default=16, help="of the latency model")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--held-out-samples", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=1000, help="measured plans")
    parser.add_argument("--methods", nargs="*", choices=METHODS)
    parser.add_argument("--run-only", action="store_true", help="search; measure nothing held out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    found = compare(options)
    if options.out:
        known = json.loads(options.out.read_text()) if options.out.exists() else {}
        earlier = known.get(found["model"], {})
        for part in ("runs", "tables"):
            found[part] = earlier.get(part, {}) | found[part]
        known[found["model"]] = found
        options.out.write_text(json.dumps(known) + "\n")
    print(f"{time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    main()
