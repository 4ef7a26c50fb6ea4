"""Whether 2:4 schemes pay: the measured front with them beside the best one without, on held-out data.

``python -m experiments.sparse_front FOLDER --device a100_pcie_40gb --batch 256``, FOLDER made by
``python -m experiments.models``. Both fronts are the exact ones of one table of one-at-a-time losses; points spread over each are
measured as whole plans on held-out data. A sparse plan dominates where it is no slower than a dense one and loses less, by more
than 1.96 standard errors of the paired difference. With ``--recover gptq,bias`` (or ``auto``) every plan is recovered on the
calibration data before it is measured, and the table's losses count by how much recovery leaves of dense and of sparse ones; else
sparse weights come from Gram matrices (``obs``) and dense ones are rounded plainly.
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
from mpsearch.data.batches import make_batches, read_batches
from mpsearch.errors import ProblemError
from mpsearch.graph.importer import import_onnx
from mpsearch.jobs.prepare import default_space
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Front
from mpsearch.problem.pareto import thin
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs, Table
from mpsearch.recovery.recover import recover
from mpsearch.recovery.task import parse_methods
from mpsearch.search.find_front import find_front
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import tie_groups
from mpsearch.space.files import read_space
from mpsearch.stats.estimates import Floats, Ints, estimate_mean
from mpsearch.stats.recovery_factors import DENSE, SPARSE


@dataclass(frozen=True, slots=True)
class Measured:
    """A plan, its latency and its losses on held-out samples."""

    assignment: tuple[int, ...]
    latency_us: float
    losses: Floats

    @property
    def loss(self) -> float:
        """Mean loss."""
        return float(self.losses.mean())


def solve(problem: Problem) -> Front:
    """The exact front, or proven points of it where edges are too entangled."""
    try:
        return find_front(problem, method="exact")
    except ProblemError:
        return find_front(problem, method="milp", budget=60)


@dataclass(frozen=True, slots=True)
class Judge:
    """Measures plans on held-out data, recovered before where methods are named.

    Attributes:
        made: Calibration data.
        held: Held-out data.
        methods: ``none``, ``auto`` or names.
    """

    made: Simulator
    held: Simulator
    methods: str

    def losses(self, plan: Ints) -> Floats:
        """Return the losses of ``plan`` on the held-out samples."""
        if self.methods == "none":
            return self.held.losses(plan)
        names = None if self.methods == "auto" else parse_methods(self.methods)
        found = recover(self.made, plan, names)
        return self.held.change(found.recovered.changes).losses(plan)


def measured_front(
    table: Table, costs: Costs, schemes: list[int], judge: Judge, count: int
) -> list[Measured]:
    """Measure ``count`` points spread over the predicted front of some schemes, fastest first."""
    kept = np.zeros(len(table.schemes), np.bool_)
    kept[schemes] = True
    problem = build_problem(
        replace(table, allowed=table.allowed & kept), replace(costs, allowed=costs.allowed & kept)
    )
    front = solve(problem)
    chosen = thin(front.objectives, min(count, len(front.points)))
    found = []
    for index in np.asarray(chosen).tolist():
        point = front.points[index]
        plan = np.array(point.assignment, np.int64)
        latency = float(problem.evaluate(plan[None])["latency_us"][0])
        found.append(Measured(point.assignment, latency, judge.losses(plan)))
        print(f"  {latency:.1f} µs: {found[-1].loss:.5f}", flush=True)
    return sorted(found, key=lambda m: m.latency_us)


def compare(dense: list[Measured], sparse: list[Measured]) -> list[str]:
    """One line a dense point: the sparse plan of least loss that is no slower, and whether it dominates."""
    lines = [
        "| dense µs | dense loss | sparse µs | sparse loss | difference | dominates |",
        "| --- " * 6 + "|",
    ]
    best: list[Measured] = []
    for point in dense:  # what a slower point must beat to be on the measured front
        if not best or point.loss < best[-1].loss:
            best.append(point)
    for point in best:
        faster = [m for m in sparse if m.latency_us <= point.latency_us * (1 + 1e-9)]
        if not faster:
            lines.append(f"| {point.latency_us:.1f} | {point.loss:.5f} | – | – | – | no |")
            continue
        rival = min(faster, key=lambda m: m.loss)
        mean, stderr = estimate_mean(rival.losses - point.losses)
        verdict = "**yes**" if mean < -1.96 * stderr else "no"
        lines.append(
            f"| {point.latency_us:.1f} | {point.loss:.5f} | {rival.latency_us:.1f} | {rival.loss:.5f} "
            f"| {mean:+.5f} ± {stderr:.5f} | {verdict} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.sparse_front", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="a100_pcie_40gb")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--calibrate", type=int, default=256, help="for ranges and Gram matrices")
    parser.add_argument("--samples", type=int, default=64, help="for the table")
    parser.add_argument("--held", type=int, default=128)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--metric", default="perturbation")
    parser.add_argument("--dense", nargs="+", help="dense schemes to take; default: all")
    parser.add_argument("--recover", default="none", metavar="none|auto|METHODS")
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    started = time.process_time()
    folder = arguments.folder
    calibration = read_batches(folder / "calibration.npz", limit=arguments.calibrate)
    held = read_batches(folder / "held_out.npz")
    rows = np.linspace(0, len(held) - 1, min(arguments.held, len(held))).astype(int)
    held = make_batches({name: held.arrays[name][rows] for name in calibration.arrays})
    shapes = {name: (1, *array.shape[1:]) for name, array in calibration.arrays.items()}
    device = read_device(arguments.device)
    space = read_space(default_space(device))
    recovers = arguments.recover != "none"
    schemes = [
        replace(s, recovery="obs") if s.sparsity is not None and not recovers else s
        for s in space.schemes
    ]
    if arguments.dense:
        schemes = [s for s in schemes if s.sparsity is not None or s.name in arguments.dense]
    space = replace(space, schemes=tuple(schemes))
    graph = tie_groups(import_onnx(folder / "model.onnx", shapes=shapes), space)
    unlabelled = make_batches(dict(calibration.arrays))
    kind = "mse" if folder.resolve().name == "minilm" else "kl"
    simulator = Simulator(graph, space, unlabelled, loss=kind)
    costs = estimate_costs(graph, space, device, batch=arguments.batch)
    few = unlabelled.take(arguments.samples)
    table = score_sensitivity(simulator.on_data(few), metric=arguments.metric)
    print(f"scored in {time.process_time() - started:.0f} s of processor", flush=True)
    judge = Judge(simulator, simulator.on_data(held), arguments.recover)
    if recovers:
        left = np.array([DENSE if s.sparsity is None else SPARSE for s in space.schemes])
        table = replace(table, values=table.values * left, stderr=table.stderr * left)
    dense = [i for i, s in enumerate(space.schemes) if s.sparsity is None]
    every = list(range(len(space.schemes)))
    lines = [
        f"{folder.resolve().name} on {device.name}, batch {arguments.batch}, recovery {arguments.recover}: uniform plans",
        "",
        "| scheme | µs | loss |",
        "| --- | --- | --- |",
    ]
    problem = build_problem(table, costs)
    allowed = table.allowed & costs.allowed
    for i, scheme in enumerate(space.schemes):
        plan = np.where(allowed[:, i], i, space.index(space.base)).astype(np.int64)
        latency = float(problem.evaluate(plan[None])["latency_us"][0])
        mean, stderr = estimate_mean(judge.losses(plan))
        said = f"{int(allowed[:, i].sum())} of {len(graph.groups)}"
        lines.append(f"| {scheme.name} ({said}) | {latency:.1f} | {mean:.5f} ± {stderr:.5f} |")
    print("\n".join(lines), flush=True)
    fronts = [
        measured_front(table, costs, some, judge, arguments.points) for some in (dense, every)
    ]
    compared = ["", *compare(*fronts)]
    lines += compared
    print("\n".join(compared))
    print(f"{time.process_time() - started:.0f} s of processor")
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
